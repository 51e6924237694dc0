//! The tables, as Celery's own database store makes them, with one column more.

use tokio_postgres::{Client, Error};

/// The columns that results are kept in; the last one says when a result of ours expires, and Celery does not look at it.
const COLUMNS: [&str; 15] = [
    "id",
    "task_id",
    "status",
    "result",
    "date_done",
    "traceback",
    "children",
    "name",
    "args",
    "kwargs",
    "worker",
    "retries",
    "queue",
    "stamps",
    "manyhands_expires",
];

/// One program at a time makes the tables.
const MAKE: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(7521643019);
    CREATE SEQUENCE IF NOT EXISTS task_id_sequence;
    CREATE SEQUENCE IF NOT EXISTS taskset_id_sequence;
    CREATE TABLE IF NOT EXISTS celery_taskmeta (
        id INTEGER NOT NULL PRIMARY KEY,
        task_id VARCHAR(155) UNIQUE,
        status VARCHAR(50),
        result BYTEA,
        date_done TIMESTAMP WITHOUT TIME ZONE,
        traceback TEXT,
        children BYTEA
    );
    CREATE TABLE IF NOT EXISTS celery_tasksetmeta (
        id INTEGER NOT NULL PRIMARY KEY,
        taskset_id VARCHAR(155) UNIQUE,
        result BYTEA,
        date_done TIMESTAMP WITHOUT TIME ZONE
    );
    ALTER TABLE celery_taskmeta
        ADD COLUMN IF NOT EXISTS children BYTEA,
        ADD COLUMN IF NOT EXISTS name VARCHAR(155),
        ADD COLUMN IF NOT EXISTS args BYTEA,
        ADD COLUMN IF NOT EXISTS kwargs BYTEA,
        ADD COLUMN IF NOT EXISTS worker VARCHAR(155),
        ADD COLUMN IF NOT EXISTS retries INTEGER,
        ADD COLUMN IF NOT EXISTS queue VARCHAR(155),
        ADD COLUMN IF NOT EXISTS stamps BYTEA,
        ADD COLUMN IF NOT EXISTS manyhands_expires TIMESTAMP WITHOUT TIME ZONE;
    CREATE INDEX IF NOT EXISTS ix_celery_taskmeta_date_done ON celery_taskmeta (date_done);
    CREATE INDEX IF NOT EXISTS ix_celery_tasksetmeta_date_done ON celery_tasksetmeta (date_done);
    CREATE INDEX IF NOT EXISTS ix_celery_taskmeta_manyhands_expires ON celery_taskmeta (manyhands_expires);
    COMMIT;
";

/// Sees to it that the tables are there. Where they are, no right to change them is needed.
pub(super) async fn prepare(client: &Client) -> Result<(), Error> {
    let found = client
        .query_one(
            "SELECT count(*) FROM pg_attribute
             WHERE attrelid = to_regclass('celery_taskmeta') AND attname = ANY($1) AND NOT attisdropped",
            &[&&COLUMNS[..]],
        )
        .await?;
    if usize::try_from(found.get::<_, i64>(0)).is_ok_and(|found| found == COLUMNS.len()) {
        return Ok(());
    }
    let made = client.batch_execute(MAKE).await;
    if made.is_err() {
        client.batch_execute("ROLLBACK").await?;
    }
    made
}

/// Stores results, none of them twice, and tells all who listen which are ready. What is there and final stays.
pub(super) const PUT: &str = "
    WITH given AS (
        SELECT * FROM unnest(
            $1::text[], $2::text[], $3::bytea[], $4::float8[], $5::text[], $6::bytea[],
            $7::text[], $8::bytea[], $9::bytea[], $10::text[], $11::int4[], $12::text[]
        ) AS g(task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue)
    ), put AS (
        INSERT INTO celery_taskmeta AS t (
            id, task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue,
            manyhands_expires
        )
        SELECT
            nextval('task_id_sequence'), task_id, status, result, to_timestamp(date_done) AT TIME ZONE 'UTC',
            traceback, children, name, args, kwargs, worker, retries, queue,
            (clock_timestamp() + make_interval(secs => $13::float8)) AT TIME ZONE 'UTC'
        FROM given
        ORDER BY task_id
        ON CONFLICT (task_id) DO UPDATE SET
            status = excluded.status, result = excluded.result, date_done = excluded.date_done,
            traceback = excluded.traceback, children = excluded.children, name = excluded.name,
            args = excluded.args, kwargs = excluded.kwargs, worker = excluded.worker, retries = excluded.retries,
            queue = excluded.queue, manyhands_expires = excluded.manyhands_expires
        WHERE t.status IS DISTINCT FROM 'SUCCESS'
            OR t.manyhands_expires <= clock_timestamp() AT TIME ZONE 'UTC'
        RETURNING t.task_id, t.status
    )
    SELECT count(pg_notify('manyhands_results', task_id)) FROM put
    WHERE status IN ('SUCCESS', 'FAILURE', 'REVOKED')
";

/// What is known of tasks.
pub(super) const GET: &str = "
    SELECT task_id, status, result, extract(epoch FROM date_done)::float8, traceback, children, name, args, kwargs,
        worker, retries, queue
    FROM celery_taskmeta
    WHERE task_id = ANY($1)
        AND (manyhands_expires IS NULL OR manyhands_expires > clock_timestamp() AT TIME ZONE 'UTC')
";

/// Forgets a task.
pub(super) const FORGET: &str = "DELETE FROM celery_taskmeta WHERE task_id = $1";

/// Deletes what has expired.
pub(super) const SWEEP: &str =
    "DELETE FROM celery_taskmeta WHERE manyhands_expires <= clock_timestamp() AT TIME ZONE 'UTC'";
