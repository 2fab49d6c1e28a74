//! Who may do what on the managed cache: one user for each that connects, each with what it needs. The default user is off.
//!
//! The API's Secret holds the file twice: what the bundled API needs is known to the command, of another image only that it
//! caches.

use crate::input::Credentials;

/// Key of the file for the bundled API, and of the one for any other image.
pub(super) const BUNDLED: &str = "users.acl";
pub(super) const ANY_IMAGE: &str = "users-any-image.acl";

/// User of the API.
pub const API_USER: &str = "plimsoll";
/// User of the operator, which asks how the cache fares.
pub const OPERATOR_USER: &str = "plimsoll-operator";
/// User of the exporter beside the cache.
pub const EXPORTER_USER: &str = "plimsoll-exporter";

/// User of the servers that have copies of the primary's keys.
pub const REPLICA_USER: &str = "plimsoll-replica";
/// User of the sentinels, which look after the servers.
pub const SENTINEL_USER: &str = "plimsoll-sentinel";

/// What the bundled API does, in commands that Redis 7.0 knows, for it refuses a file that names another one: keys of its own prefixes, one channel, scripts of these commands.
const API: &str = "~post:* ~rate:* resetchannels &post:* -@all \
                   +ping +get +set +del +time +eval +publish +subscribe +unsubscribe";
/// What a cache is for, without what harms others or the server.
const ANY: &str = "~* resetchannels &* +@all -@admin -@dangerous";
/// Reads the server's own numbers, and no key.
const OPERATOR: &str = "resetkeys resetchannels -@all +ping +info";
/// Likewise, and the slow commands that the exporter counts.
const EXPORTER: &str = "resetkeys resetchannels -@all \
                        +ping +info +client|setname +latency|latest +latency|histogram +slowlog|len +slowlog|get";
/// Copies the primary's keys.
const REPLICA: &str = "resetkeys resetchannels -@all +ping +psync +replconf";
/// Asks servers how they are, and makes one of them the primary.
const SENTINEL: &str = "resetkeys resetchannels &* -@all +ping +info +role +subscribe +publish +multi +exec +slaveof \
                        +config|rewrite +client|setname +client|kill +script|kill";
/// Of a sentinel: asks it where the primary is.
const ASKS_SENTINEL: &str = "resetkeys resetchannels -@all +ping +sentinel|get-master-addr-by-name";

/// Users of a sentinel, as lines of its configuration. `$PASSWORD` and `$OPERATOR_PASSWORD` are for a shell to fill in.
pub(super) fn sentinel_users() -> String {
    format!(
        "user {API_USER} on >$PASSWORD {ASKS_SENTINEL}\n\
         user {OPERATOR_USER} on >$OPERATOR_PASSWORD {ASKS_SENTINEL}"
    )
}

/// Both files. Passwords are letters and digits, so that nothing needs escaping.
pub(super) fn files(credentials: &Credentials) -> [(&'static str, String); 2] {
    let Credentials {
        password,
        operator_password,
        exporter_password,
        replication_password,
        sentinel_password,
        ..
    } = credentials;
    let users = |api: &str| {
        format!(
            "user default off\n\
             user {API_USER} on >{password} {api}\n\
             user {OPERATOR_USER} on >{operator_password} {OPERATOR}\n\
             user {EXPORTER_USER} on >{exporter_password} {EXPORTER}\n\
             user {REPLICA_USER} on >{replication_password} {REPLICA}\n\
             user {SENTINEL_USER} on >{sentinel_password} {SENTINEL}\n"
        )
    };
    [(BUNDLED, users(API)), (ANY_IMAGE, users(ANY))]
}
