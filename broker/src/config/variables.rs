//! Variables that begin with `AQUEDUCT_` and are no settings of a node.
//!
//! A node refuses to start with one that nobody knows, because a slip would otherwise be a default
//! in silence. So this list must hold every variable that anything of ours reads.

/// What all our variables begin with.
pub const PREFIX: &str = "AQUEDUCT_";

/// Variables of the command line, the client and the tests: name, who reads it, a sentence.
pub const OTHER_VARIABLES: &[(&str, &str, &str)] = &[
    (
        "AQUEDUCT_CONFIG",
        "serve, dev, config",
        "The configuration file.",
    ),
    (
        "AQUEDUCT_SERVER",
        "client",
        "Address of the broker; wins over AQUEDUCT_CONTEXT.",
    ),
    (
        "AQUEDUCT_CONTEXT",
        "client",
        "Name of the context that says where the broker is.",
    ),
    ("AQUEDUCT_BIN", "tests", "The binary that is tested."),
    ("AQUEDUCT_CALL", "tests", "The disk call to crash after."),
    (
        "AQUEDUCT_COMMIT",
        "build",
        "The commit that `version` names.",
    ),
    ("AQUEDUCT_FUZZ", "tests", "The fuzz target to run."),
    ("AQUEDUCT_FUZZ_SECONDS", "tests", "How long to fuzz."),
    ("AQUEDUCT_LIVES", "tests", "Restarts of a simulation."),
    ("AQUEDUCT_ROUNDS", "tests", "Rounds of a soak test."),
    (
        "AQUEDUCT_RUSTC",
        "build",
        "The compiler that `version` names.",
    ),
    ("AQUEDUCT_SEED", "tests", "The seed of random tests."),
    ("AQUEDUCT_VERBOSE", "tests", "Print what a simulation does."),
];

/// Kubernetes gives every container variables about each service of its namespace. If one is
/// called `aqueduct`, they begin as ours do, and nobody meant them for us.
pub(super) fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let port = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    rest == "PORT"
        || rest.ends_with("_PORT")
        || rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest.split("PORT_").nth(1).is_some_and(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_kubernetes_are_not_ours() {
        for name in [
            "AQUEDUCT_SERVICE_HOST",
            "AQUEDUCT_SERVICE_PORT",
            "AQUEDUCT_SERVICE_PORT_GRPC",
            "AQUEDUCT_PORT",
            "AQUEDUCT_PORT_7320_TCP_ADDR",
            "AQUEDUCT_CONSOLE_PORT_80_TCP",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in [
            "AQUEDUCT_LISTEN",
            "AQUEDUCT_PORTS",
            "AQUEDUCT_PORT_",
            "PORT",
        ] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}
