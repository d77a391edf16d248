//! Where the broker is: flags, variables, contexts; and the connection to it.
//!
//! `--server` wins over `--context`, both over `AQUEDUCT_SERVER`, that over `AQUEDUCT_CONTEXT`, that
//! over the context in use, and without any of them it is this machine.

use std::{env, time::Duration};

use aqueduct_client::{Client, ClientBuilder, DEFAULT_SERVER};
use clap::Args;

use super::{
    context::{Contexts, unknown},
    output, values,
};

/// How to reach a broker.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ClientArgs {
    /// The broker's address [env: AQUEDUCT_SERVER] [default: 127.0.0.1:7320]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) server: Option<String>,
    /// The context that says where the broker is [env: AQUEDUCT_CONTEXT]
    #[arg(long, value_name = "NAME", conflicts_with = "server")]
    pub(super) context: Option<String>,
    /// Longest wait for an answer, such as 500ms or 30s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) timeout: Option<Duration>,
}

impl ClientArgs {
    /// Only an address, for commands that take no context.
    pub(super) fn at(server: &str, timeout: Option<Duration>) -> Self {
        Self {
            server: Some(server.to_owned()),
            context: None,
            timeout,
        }
    }

    /// The broker's address.
    ///
    /// # Errors
    /// A context that is not there, or a file of contexts that cannot be read.
    pub(super) fn address(&self) -> anyhow::Result<String> {
        let variable = |name| env::var(name).ok().filter(|text: &String| !text.is_empty());
        let said = [
            self.server.clone().map(Said::Server),
            self.context.clone().map(Said::Context),
            variable("AQUEDUCT_SERVER").map(Said::Server),
            variable("AQUEDUCT_CONTEXT").map(Said::Context),
        ];
        let contexts = || Contexts::load();
        match said.into_iter().flatten().next() {
            Some(Said::Server(server)) => Ok(server),
            Some(Said::Context(name)) => {
                let contexts = contexts()?;
                let server = contexts.server(&name).map(str::to_owned);
                server.ok_or_else(|| unknown(&name, &contexts).into())
            }
            None => {
                let contexts = contexts()?;
                let current = contexts.current().and_then(|name| contexts.server(name));
                Ok(current.unwrap_or(DEFAULT_SERVER).to_owned())
            }
        }
    }

    /// A client that is not connected yet.
    pub(super) fn builder(&self) -> anyhow::Result<ClientBuilder> {
        let mut builder = Client::builder().server(self.address()?);
        if let Some(timeout) = self.timeout {
            builder = builder.request_timeout(timeout).connect_timeout(timeout);
        }
        Ok(builder)
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        Ok(self.builder()?.build().await?)
    }

    /// Asks before something is destroyed, and says where.
    pub(super) fn confirm(&self, doing: &str, yes: bool) -> anyhow::Result<()> {
        let address = self.address()?;
        output::confirm(&format!("{doing} at {address}"), yes)
    }
}

enum Said {
    Server(String),
    Context(String),
}
