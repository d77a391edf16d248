//! docs/configuration.md, made of the list of settings. A test compares.

use super::{KEYS, OTHER_VARIABLES};

const HEAD: &str = "\
# Configuration

<!-- Made by `aqueduct config docs`; `UPDATE_DOCS=1 cargo test -p aqueduct-tests --test e2e config` writes it. -->

A broker needs no configuration but the place of its data. What is set is taken from, highest first:

1. flags of `aqueduct serve` and `aqueduct dev`,
2. variables `AQUEDUCT_*`,
3. a TOML file, named by `--config FILE` or `AQUEDUCT_CONFIG`; none is looked for by itself,
4. defaults. (`aqueduct dev` has its own: data in a temporary directory, taken from its flag only, and topics made
   with 6 partitions by publishing. Under systemd, `STATE_DIRECTORY` is the default of `data`.)

Sizes are written `4096`, `64KiB`, `1GB`; times `250ms`, `30s`, `1h30m`, `7d`. A key that nobody knows, in the file or as a
variable, is an error with a suggestion (exit code 2), and so is a value beyond its bounds; a value that a higher
layer covers is checked all the same. Nothing is read again while the broker runs. Variables that Kubernetes makes of a service called
`aqueduct` (`AQUEDUCT_SERVICE_HOST`, `AQUEDUCT_PORT_7320_TCP` …) are left alone.

```
aqueduct config show --origin          # what would be used here, and where each value comes from
aqueduct config check aqueduct.toml    # a file on its own: problems with their lines, exit code 2
aqueduct config env                    # every variable
```

`config show` prints a file that can be used.

## Settings

";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| Key | Flag, variable | Default | Bounds | Meaning |\n|---|---|---|---|---|\n");
    for key in KEYS {
        let bounds = key
            .limits()
            .map(|(min, max)| format!("{min} to {max}"))
            .unwrap_or_default();
        let default = match key.default_words {
            Some(words) => words.to_owned(),
            None => format!("`{}`", key.default_text()),
        };
        page.push_str(&format!(
            "| `{}` | `--{}`<br>`{}` | {default} | {bounds} | {} |\n",
            key.name,
            key.flag(),
            key.env(),
            key.doc
        ));
    }
    page.push_str("\n## Other variables\n\n| Variable | Read by | Meaning |\n|---|---|---|\n");
    for (name, reader, sentence) in OTHER_VARIABLES {
        page.push_str(&format!("| `{name}` | {reader} | {sentence} |\n"));
    }
    page
}
