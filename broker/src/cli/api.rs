//! `aqueduct api`: calls any method by the descriptors that the broker itself gives.
//!
//! The messages of this binary are not used, so that a broker of another version can be asked, too.
//! Unary and server-streaming methods; JSON as protobuf maps it. What a stream answers is printed
//! line by line.

mod descriptors;

use std::{io::Read as _, process::ExitCode, time::Duration};

use bytes::{Buf as _, BufMut as _};
use clap::Args;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{
    ClientArgs, OutputArgs,
    output::{self, Failure, Format},
};

/// Longest wait for an answer where --timeout does not say.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest message, both ways.
const MAX_MESSAGE: usize = 32 << 20;
/// Largest request that is read from stdin.
const MAX_INPUT: u64 = 32 << 20;

/// Arguments of `aqueduct api`.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// The method, such as Topics/GetTopic or aqueduct.v1.Topics/GetTopic; without one, all methods
    /// are listed
    #[arg(value_name = "SERVICE/METHOD")]
    method: Option<String>,
    /// The request as JSON, or - for stdin
    #[arg(value_name = "JSON", default_value = "{}")]
    request: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: ApiArgs) -> anyhow::Result<ExitCode> {
    let timeout = args.client.timeout.unwrap_or(TIMEOUT);
    let channel = connect(&args.client.address()?, timeout).await?;
    let fetching = descriptors::fetch(channel.clone());
    let pool = tokio::time::timeout(timeout, fetching)
        .await
        .map_err(|_| Failure::new(6, "no descriptors in time"))?
        .map_err(|status| refused(&status))?;
    match &args.method {
        None => list(args.output.output, &pool)?,
        Some(name) => {
            let method = find(&pool, name)?;
            let request = parse(&args.request, method.input())?;
            call(channel, &method, request, timeout).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect(address: &str, timeout: Duration) -> anyhow::Result<Channel> {
    let bare = ["http://", "aqueduct://"]
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme));
    let mut bare = bare.unwrap_or(address).trim_end_matches('/').to_owned();
    let port = bare.rsplit_once(':').map(|(_, port)| port);
    if !port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
        bare.push_str(":7320");
    }
    let endpoint = Endpoint::from_shared(format!("http://{bare}"))
        .map_err(|_| Failure::usage(format!("server address {address:?} is not host:port")))?;
    let connected = endpoint.connect_timeout(timeout).connect().await;
    connected.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let cause = cause.unwrap_or_else(|| error.to_string());
        Failure::new(5, format!("cannot connect to {bare}: {cause}"))
            .hint(
                "is a broker running? `aqueduct dev` starts one; --server HOST:PORT names another",
            )
            .into()
    })
}

/// The kinds of a method, as the list names them.
fn kind(method: &MethodDescriptor) -> &'static str {
    match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => "unary",
        (false, true) => "server stream",
        (true, false) => "client stream",
        (true, true) => "both stream",
    }
}

fn list(format: Format, pool: &DescriptorPool) -> anyhow::Result<()> {
    let services: Vec<_> = pool.services().collect();
    let methods: Vec<_> = services.iter().flat_map(|it| it.methods()).collect();
    let path = |it: &MethodDescriptor| format!("{}/{}", it.parent_service().full_name(), it.name());
    if format != Format::Table {
        let each = methods.iter().map(|method| {
            json!({
                "method": path(method),
                "request": method.input().full_name(),
                "response": method.output().full_name(),
                "kind": kind(method),
            })
        });
        return Ok(output::print_list(format, each.collect())?);
    }
    let mut table = output::table(&["METHOD", "KIND", "REQUEST"]);
    for method in &methods {
        let request = method.input();
        table.add_row([&path(method), kind(method), request.name()]);
    }
    Ok(output::print_table(&table)?)
}

/// The method of this name; the service may be named without its package.
fn find(pool: &DescriptorPool, name: &str) -> Result<MethodDescriptor, Failure> {
    const HINT: &str = "`aqueduct api` lists every method";
    let name = name.trim_start_matches('/');
    let Some((service, method)) = name.rsplit_once(['/', '.']) else {
        return Err(Failure::usage(format!("{name:?} is not SERVICE/METHOD")).hint(HINT));
    };
    let found = pool
        .services()
        .filter(|it| it.full_name() == service || it.name() == service)
        .flat_map(|it| it.methods().collect::<Vec<_>>())
        .find(|it| it.name() == method);
    let found =
        found.ok_or_else(|| Failure::new(3, format!("there is no method {name}")).hint(HINT))?;
    if found.is_client_streaming() {
        return Err(Failure::usage(format!(
            "{name} takes a stream of requests, which this command cannot send"
        )));
    }
    Ok(found)
}

fn parse(text: &str, kind: MessageDescriptor) -> anyhow::Result<DynamicMessage> {
    let mut read = String::new();
    let text = match text {
        "-" => {
            let mut input = std::io::stdin().lock().take(MAX_INPUT);
            input.read_to_string(&mut read)?;
            &read
        }
        text => text,
    };
    let name = kind.full_name().to_owned();
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(kind, &mut json);
    let whole = message.and_then(|message| json.end().map(|()| message));
    whole.map_err(|error| Failure::usage(format!("the request is no {name}: {error}")).into())
}

async fn call(
    channel: Channel,
    method: &MethodDescriptor,
    request: DynamicMessage,
    timeout: Duration,
) -> anyhow::Result<()> {
    let service = method.parent_service();
    let path = format!("/{}/{}", service.full_name(), method.name()).parse()?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready().await?;
    let codec = Dynamic(method.output());
    if !method.is_server_streaming() {
        let answer = grpc.unary(Request::new(request), path, codec);
        let answer = tokio::time::timeout(timeout, answer)
            .await
            .map_err(|_| Failure::new(6, "no answer in time").hint("--timeout waits longer"))?
            .map_err(|status| refused(&status))?;
        return Ok(output::print_json(&to_json(answer.get_ref())?)?);
    }
    let answers = grpc.server_streaming(Request::new(request), path, codec);
    let mut answers = answers
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let next = tokio::select! {
            next = answers.message() => next.map_err(|status| refused(&status))?,
            _ = &mut interrupt => return Ok(()),
        };
        match next {
            Some(message) => output::print(format!("{}\n", to_json(&message)?))?,
            None => return Ok(()),
        }
    }
}

fn to_json(message: &DynamicMessage) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(message)?)
}

/// The broker's refusal, with its reason and our exit code.
fn refused(status: &Status) -> Failure {
    use tonic::Code;
    let code = match status.code() {
        Code::NotFound | Code::OutOfRange => 3,
        Code::PermissionDenied | Code::Unauthenticated => 4,
        Code::Unavailable | Code::ResourceExhausted | Code::Cancelled => 5,
        Code::DeadlineExceeded => 6,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => 7,
        _ => 1,
    };
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let reason = reason.unwrap_or_else(|| format!("{:?}", status.code()));
    Failure::new(code, format!("{reason}: {}", status.message()))
}

/// Encodes what it is given, decodes messages of one kind.
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(self.0.clone())
    }

    fn decoder(&mut self) -> Self {
        Self(self.0.clone())
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item.encode_to_vec().as_slice());
        Ok(())
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        DynamicMessage::decode(self.0.clone(), bytes)
            .map(Some)
            .map_err(|error| Status::internal(format!("an answer that cannot be read: {error}")))
    }
}
