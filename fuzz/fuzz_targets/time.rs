//! Times: what can be read is the same when it was written and is read again.
#![no_main]

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use manyhands_queue::wire::time;

fuzz_target!(|text: &str| {
    let Ok(seconds) = time::read(text, &TimeZone::UTC) else { return };
    if let Ok(written) = time::write(seconds) {
        assert_eq!(time::read(&written, &TimeZone::UTC), Ok(seconds));
    }
});
