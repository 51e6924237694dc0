//! What everything is called in Redis: kombu's names, and ours for what kombu does not know.

/// Priorities have a list for each of these: one goes to the largest that it is not below.
pub(crate) const STEPS: [u8; 4] = [0, 3, 6, 9];

/// What kombu puts between the parts of a name.
const BETWEEN: &str = "\u{6}\u{16}";

/// The keys of one address; all begin with its prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
    /// Messages that somebody has: by tag, `[envelope, exchange, routing key]`.
    pub(crate) unacked: String,
    /// When they were taken.
    pub(crate) index: String,
    /// Held by the worker that looks for forgotten ones.
    pub(crate) mutex: String,
    /// Our consumers, and until when each is taken to be alive.
    pub(crate) consumers: String,
    /// Which of our consumers may not take any more, or only by numbers from this one on.
    pub(crate) fences: String,
    /// The tasks that were revoked.
    pub(crate) revoked: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let key = |name: &str| format!("{prefix}{name}");
        Self {
            prefix: prefix.into(),
            unacked: key("unacked"),
            index: key("unacked_index"),
            mutex: key("unacked_mutex"),
            consumers: key("_manyhands.consumers"),
            fences: key("_manyhands.fences"),
            revoked: key("_manyhands.revoked"),
        }
    }

    /// The list of a queue's messages of that step.
    pub(crate) fn list(&self, queue: &str, step: u8) -> String {
        let prefix = &self.prefix;
        if step == 0 { format!("{prefix}{queue}") } else { format!("{prefix}{queue}{BETWEEN}{step}") }
    }

    /// All lists of a queue, the one that goes first first.
    pub(crate) fn lists(&self, queue: &str) -> [String; 4] {
        STEPS.map(|step| self.list(queue, step))
    }

    /// The two tables in which a queue of that name says that it is bound to its exchange.
    pub(crate) fn bindings(&self, exchange: &str) -> [String; 2] {
        ["_kombu.binding", "_kombu.binding_permanent"]
            .map(|table| format!("{}{table}.{exchange}", self.prefix))
    }

    /// Where the dead letters of a queue lie.
    pub(crate) fn dead(&self, queue: &str) -> String {
        format!("{}_manyhands.dead.{queue}", self.prefix)
    }
}

/// The step of a priority.
pub(crate) fn step_of(priority: u8) -> u8 {
    STEPS.into_iter().rev().find(|step| *step <= priority).unwrap_or(0)
}

/// How a table says that a queue is bound by a routing key.
pub(crate) fn binding(routing_key: &str, queue: &str) -> String {
    format!("{routing_key}{BETWEEN}{BETWEEN}{queue}")
}

/// The queues of a table's rows that a routing key leads to: directly, or by a pattern of words, `*` and `#`.
pub(crate) fn bound<'a>(rows: &'a [String], routing_key: &str) -> Vec<&'a str> {
    let row = |row: &'a String| {
        let mut parts = row.splitn(3, BETWEEN);
        let (key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
        let leads = if pattern.is_empty() { key == routing_key } else { matches(key, routing_key) };
        leads.then_some(queue)
    };
    rows.iter().filter_map(row).collect()
}

/// As kombu matches: `*` is one word, `#` any text, so that `a.#` does not match `a`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((word, rest)) = pattern
        .split_once('.')
        .map_or((!pattern.is_empty()).then_some((pattern, None)), |(word, rest)| Some((word, Some(rest))))
    else {
        return text.is_empty();
    };
    let goes_on = |after: &str| match rest {
        None => after.is_empty(),
        Some(rest) => after.strip_prefix('.').is_some_and(|after| matches(rest, after)),
    };
    match word {
        "#" => (0..=text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| goes_on(&text[at..])),
        "*" => {
            let end = text.find('.').unwrap_or(text.len());
            end > 0 && goes_on(&text[end..])
        }
        word => text.strip_prefix(word).is_some_and(goes_on),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_fall_to_the_step_below() {
        let steps: Vec<u8> = [0, 2, 3, 5, 6, 8, 9, 255].into_iter().map(step_of).collect();
        assert_eq!(steps, [0, 0, 3, 3, 6, 6, 9, 9]);
    }

    #[test]
    fn the_lists_are_called_as_kombu_calls_them() {
        let keys = Keys::new("pfx:");
        assert_eq!(
            keys.lists("celery"),
            ["pfx:celery", "pfx:celery\x06\x163", "pfx:celery\x06\x166", "pfx:celery\x06\x169"]
        );
        assert_eq!(binding("celery", "celery"), "celery\x06\x16\x06\x16celery");
    }

    #[test]
    fn a_routing_key_leads_to_what_is_bound() {
        let rows: Vec<String> = [
            "celery\x06\x16\x06\x16celery",
            "a.*.c\x06\x16^a\\.[^\\.]+\\.c$\x06\x16starred",
            "a.#\x06\x16^a\\..*?$\x06\x16hashed",
            "no row",
        ]
        .map(String::from)
        .into();
        assert_eq!(bound(&rows, "celery"), ["celery"]);
        assert_eq!(bound(&rows, "a.b.c"), ["starred", "hashed"]);
        assert_eq!(bound(&rows, "a.b.b.c"), ["hashed"]);
        assert!(bound(&rows, "a").is_empty());
        assert!(bound(&rows, "").is_empty());
    }
}
