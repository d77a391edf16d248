//! Every hard bound of the broker in one place. docs/limits.md states the same values.

use std::time::Duration;

/// Largest message (key, value and headers together) a topic may allow, bytes.
pub const MAX_MESSAGE_BYTES: u64 = 16 << 20;
/// The same, where a topic does not say.
pub const DEFAULT_MESSAGE_BYTES: u64 = 8 << 20;
/// Largest record batch a client may send, bytes (headers and all).
pub const MAX_BATCH_BYTES: usize = 17 << 20;
/// Largest a batch's records may become when decompressed, bytes.
pub const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;
/// Largest gRPC request, bytes.
pub const MAX_REQUEST_BYTES: usize = 20 << 20;
/// Messages in one request.
pub const MAX_MESSAGES_PER_REQUEST: usize = 100_000;
/// Records in one batch from a client.
pub const MAX_BATCH_RECORDS: u32 = 100_000;
/// Headers of one message.
pub const MAX_HEADERS: usize = 1_000;
/// Headers of all messages of a request or a batch.
pub const MAX_HEADERS_PER_REQUEST: usize = 1_000_000;
/// Length of a dedup id, bytes.
pub const MAX_DEDUP_ID_BYTES: usize = 256;
/// Longest delay of a message.
pub const MAX_DELAY: Duration = Duration::from_secs(3_650 * 86_400);
/// Longest time to live of a message; the shortest is a millisecond.
pub const MAX_TTL: Duration = Duration::from_secs(3_650 * 86_400);
/// Greatest priority of a message; the least is 0.
pub const MAX_PRIORITY: u8 = 9;
/// Schedules of the whole node.
pub const MAX_SCHEDULES: usize = 1_000;
/// Size of a schedule's message, bytes.
pub const MAX_SCHEDULE_MESSAGE_BYTES: usize = 64 << 10;
/// Shortest interval of a schedule.
pub const MIN_SCHEDULE_INTERVAL: Duration = Duration::from_secs(1);
/// Missed firings that a schedule makes up for at most.
pub const MAX_CATCH_UP: u32 = 1_000;
/// Dedup ids remembered per partition; beyond, the oldest go before their window ends.
pub const MAX_DEDUP_IDS: usize = 1_000_000;
/// Bytes of dedup ids remembered per partition; as above.
pub const MAX_DEDUP_BYTES: usize = 64 << 20;
/// Partitions of one topic.
pub const MAX_PARTITIONS_PER_TOPIC: u32 = 10_000;
/// Partitions of the whole node.
pub const MAX_PARTITIONS: usize = 10_000;
/// Open files that a partition may need: its segment, the next one, its state.
pub const OPEN_FILES_PER_PARTITION: u64 = 3;
/// Open files that partitions and connections leave to the storage, if the limit is not small.
pub const SPARE_OPEN_FILES: u64 = 500;
/// Topics.
pub const MAX_TOPICS: usize = 10_000;
/// Named producers.
pub const MAX_NAMED_PRODUCERS: usize = 100_000;
/// Producers of the broker's own: one for each queue group and partition with dead letters, and
/// one for each pair of partitions between which dead letters were redriven, and for each between
/// which steps published.
pub const MAX_INTERNAL_PRODUCERS: usize = 100_000;
/// Of them, so many that steps may still ask for new ones: beyond, steps that publish to a partition
/// that theirs never published to are refused, so that dead letters have some left.
pub const MAX_RESULT_PRODUCERS: usize = MAX_INTERNAL_PRODUCERS / 2;
/// Nameless producers remembered per partition; beyond, the longest unseen go.
pub const MAX_PRODUCERS_PER_PARTITION: usize = 10_000;
/// Runs of sequences remembered per producer and partition: how far back a repeated batch is
/// answered with its first offset. A client keeps fewer batches per partition in flight.
pub const MAX_PRODUCER_RUNS: usize = 128;
/// Consumer groups of one topic.
pub const MAX_GROUPS_PER_TOPIC: usize = 1_000;
/// Consumer groups of the whole node.
pub const MAX_GROUPS: usize = 10_000;
/// Members of one group.
pub const MAX_MEMBERS: usize = 1_000;
/// Commits in one request.
pub const MAX_COMMITS_PER_REQUEST: usize = 10_000;
/// Requests with commits of one stream that wait for their answer.
pub const MAX_COMMIT_REQUESTS_IN_FLIGHT: usize = 256;
/// Length of what a member says of itself (member, instance and client id), bytes.
pub const MAX_MEMBER_NAME_BYTES: usize = 249;
/// Session time-out where a group does not say.
pub const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(15);
/// Shortest session time-out.
pub const MIN_SESSION_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest session time-out.
pub const MAX_SESSION_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a member may take to give partitions back, if its session is not shorter.
pub const MAX_REVOCATION: Duration = Duration::from_secs(10);
/// Messages of one pull.
pub const MAX_PULL_MESSAGES: u32 = 10_000;
/// The same where the request does not say.
pub const DEFAULT_PULL_MESSAGES: u32 = 100;
/// Bytes of one pull; one message is answered even if it is larger.
pub const MAX_PULL_BYTES: u64 = 16 << 20;
/// The same where the request does not say.
pub const DEFAULT_PULL_BYTES: u64 = 1 << 20;
/// Longest wait of a pull.
pub const MAX_PULL_WAIT: Duration = Duration::from_secs(60);
/// Messages that one entry may lease to one consumer of a queue group.
pub const MAX_LEASES_PER_GRANT: u64 = 100_000;
/// Bytes of a cron expression, and of the name of its time zone.
pub const MAX_CRON_BYTES: usize = 256;
/// Bytes of the headers that a redrive sets or removes: each message gets them.
pub const MAX_HEADER_EDIT_BYTES: usize = 8 << 10;
/// Verdicts that wait in a queue group at a time; beyond, requests are refused.
pub const MAX_SETTLEMENTS_WAITING: usize = 500_000;
/// Verdicts in one request.
pub const MAX_SETTLEMENTS: usize = 10_000;
/// Results that one step publishes.
pub const MAX_STEP_RESULTS: usize = 1_000;
/// Bytes of the results of one step.
pub const MAX_STEP_BYTES: u64 = 8 << 20;
/// Results of a queue group and partition that wait to be published; beyond, steps with results
/// are refused.
pub const MAX_RESULTS_WAITING: u64 = 10_000;
/// Their bytes, with 128 for each and 64 for each of its headers; as above, and one step may not have
/// more.
pub const MAX_RESULT_BYTES_WAITING: u64 = 16 << 20;
/// The same of all queue groups of a node together, above which steps with results are refused.
pub const MAX_NODE_RESULT_BYTES_WAITING: u64 = 256 << 20;
/// Partitions of other topics, or its own, that the steps of a queue group and partition publish
/// to.
pub const MAX_RESULT_TARGETS: usize = 1_000;
/// Latest steps of a queue group and partition that are known again.
pub const MAX_STEPS_REMEMBERED: usize = 10_000;
/// Parked keys of one queue group and partition; when they are reached, a dead letter parks no
/// further key.
pub const MAX_PARKED_KEYS: usize = 100_000;
/// Messages of one partition that are kept aside of its log because queue groups still need them;
/// beyond, the log stays.
pub const MAX_KEPT_MESSAGES: u64 = 10_000;
/// Their bytes.
pub const MAX_KEPT_BYTES: u64 = 17 << 20;
/// Length of a failure's text that is kept, bytes; the rest is cut off.
pub const MAX_FAILURE_BYTES: usize = 256;
/// Failed attempts of a message of which a queue keeps the end: the latest ones.
pub const MAX_HISTORY_ATTEMPTS: usize = 8;
/// Length of a failure's text in the history of attempts, bytes; the rest is cut off.
pub const MAX_HISTORY_ERROR_BYTES: usize = 64;
/// Bytes of the histories of attempts of one queue group and partition; beyond, none begins, and
/// those that are there do not grow.
pub const MAX_HISTORY_BYTES: usize = 2 << 20;
/// Dead letters that one request may name.
pub const MAX_DEAD_LETTER_IDS: usize = 1_000;
/// Headers that a redrive may set, and that it may remove.
pub const MAX_HEADER_EDITS: usize = 64;
/// Bytes of one page of dead letters; one is answered even if it is larger.
pub const DEAD_LETTER_PAGE_BYTES: u64 = 4 << 20;
/// Partitions of queue groups without consumers that are attended, so that messages leave whose
/// time to live is over; in groups beyond, they leave when somebody works.
pub const MAX_ATTENDED_PARTITIONS: usize = 10_000;
/// Conditions of a queue group's filter.
pub const MAX_FILTER_CONDITIONS: usize = 16;
/// Length of a header's name in a filter, bytes.
pub const MAX_FILTER_NAME_BYTES: usize = 256;
/// Length of a value or prefix in a filter, bytes.
pub const MAX_FILTER_VALUE_BYTES: usize = 1_024;
/// Labels of a topic or group.
pub const MAX_LABELS: usize = 64;
/// Length of a label's key or value, bytes.
pub const MAX_LABEL_BYTES: usize = 256;
/// Page of a listing.
pub const MAX_PAGE_SIZE: u32 = 1_000;
/// Page of a listing where the request does not say.
pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// Bytes of publishes that wait for their sync, over all partitions.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 64 << 20;
/// Requests of one publish stream that wait for their answer.
pub const MAX_STREAM_IN_FLIGHT: usize = 8_192;
/// Results of a publish stream that wait for a client that does not read them; then the stream
/// takes nothing more.
pub const MAX_STREAM_UNREAD_RESULTS: usize = 1_000_000;
/// A batch that the broker builds is closed at this size, bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// A read answer carries about this much, bytes.
pub const READ_CHUNK_BYTES: usize = 256 << 10;
/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 10_000;
/// HTTP/2 streams of one connection at a time.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 1_024;
/// Header block of a request, bytes.
pub const MAX_HEADER_BYTES: u32 = 16 << 10;
/// How long a connection may take to show that it speaks HTTP.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a retention a topic may have.
pub const MAX_RETENTION: Duration = Duration::from_secs(3_650 * 86_400);
/// Retention where a topic does not say.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 86_400);
/// Longest dedup window.
pub const MAX_DEDUP_WINDOW: Duration = Duration::from_secs(86_400);
/// Dedup window where a topic does not say.
pub const DEFAULT_DEDUP_WINDOW: Duration = Duration::from_secs(600);
/// What a publisher is told to wait when the disk is full.
pub const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// Commas and braces of one JSON body, which bound the memory that it becomes.
pub const MAX_JSON_ELEMENTS: usize = 2_000_000;
/// gRPC messages above 16 KiB of which a part has arrived, whole node, bytes.
pub const MAX_ARRIVING_BYTES: usize = 1 << 30;
/// HTTP bodies above 64 KiB that are being read or worked on, whole node, bytes.
pub const MAX_BODIES_BYTES: usize = 256 << 20;
/// How long the body of an HTTP request, or a gRPC message that has begun, may take at any rate.
pub const BODY_GRACE: Duration = Duration::from_secs(10);
/// What a body has to bring on average after that, bytes a second.
pub const BODY_BYTES_PER_SECOND: usize = 16 << 10;
/// How long an HTTP/1.1 connection may take from one answer to the end of the next header block.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers of an HTTP/1.1 request.
pub const MAX_HTTP_HEADERS: usize = 100;
/// Topics or groups in one metric; the rest is added up under the name `other`.
pub const MAX_METRIC_LABELS: usize = 1_000;
/// Streams that a client may reset before they were looked at; more end the connection.
pub const MAX_PENDING_RESETS: usize = 64;
