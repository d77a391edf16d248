//! The descriptors of a broker, by server reflection v1.
//!
//! Asks for the file of each service and for the files it imports, and stops at a number of files
//! that no honest server reaches.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_reflect::{DescriptorError, DescriptorPool};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_client,
    server_reflection_request::MessageRequest as Ask,
    server_reflection_response::MessageResponse as Answer,
};

const MAX_FILES: usize = 1_000;

/// Everything the broker offers, reflection itself and health included.
pub(super) async fn fetch(channel: Channel) -> Result<DescriptorPool, Status> {
    let (asking, asked) = mpsc::channel(1);
    let mut client = server_reflection_client::ServerReflectionClient::new(channel);
    // Some servers answer only when there is a first question.
    let first = request(Ask::ListServices(String::new()));
    send(&asking, first).await?;
    let answers = client.server_reflection_info(ReceiverStream::new(asked));
    let mut talk = Talk {
        asking,
        answers: answers.await?.into_inner(),
        files: BTreeMap::new(),
    };
    let services = match talk.answer().await? {
        Answer::ListServicesResponse(list) => list.service,
        _ => return Err(unexpected()),
    };
    for service in services {
        talk.learn(Ask::FileContainingSymbol(service.name)).await?;
    }
    talk.pool()
}

struct Talk {
    asking: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
    files: BTreeMap<String, (FileDescriptorProto, Vec<u8>)>,
}

impl Talk {
    async fn answer(&mut self) -> Result<Answer, Status> {
        let answer = self.answers.message().await?;
        match answer.and_then(|answer| answer.message_response) {
            Some(Answer::ErrorResponse(error)) => {
                Err(Status::new(error.error_code.into(), error.error_message))
            }
            Some(answer) => Ok(answer),
            None => Err(unexpected()),
        }
    }

    /// Gets a file and everything it imports.
    async fn learn(&mut self, what: Ask) -> Result<(), Status> {
        let mut wanted = vec![what];
        while let Some(ask) = wanted.pop() {
            if matches!(&ask, Ask::FileByFilename(name) if self.files.contains_key(name)) {
                continue;
            }
            send(&self.asking, request(ask)).await?;
            let Answer::FileDescriptorResponse(answer) = self.answer().await? else {
                return Err(unexpected());
            };
            for bytes in answer.file_descriptor_proto {
                let file = FileDescriptorProto::decode(bytes.as_slice())
                    .map_err(|error| Status::internal(error.to_string()))?;
                let imports = file.dependency.iter().cloned();
                wanted.extend(imports.map(Ask::FileByFilename));
                self.files.insert(file.name().to_owned(), (file, bytes));
            }
            if self.files.len() > MAX_FILES {
                return Err(Status::internal("more files than a broker has"));
            }
        }
        Ok(())
    }

    /// A pool of all files, each behind those it imports.
    fn pool(mut self) -> Result<DescriptorPool, Status> {
        let mut pool = DescriptorPool::new();
        let mut known = BTreeSet::new();
        while !self.files.is_empty() {
            let ready: Vec<String> = self
                .files
                .iter()
                .filter(|(_, (file, _))| file.dependency.iter().all(|name| known.contains(name)))
                .map(|(name, _)| name.clone())
                .collect();
            if ready.is_empty() {
                return Err(Status::internal("files that import each other"));
            }
            for name in ready {
                if let Some((_, bytes)) = self.files.remove(&name) {
                    pool.decode_file_descriptor_proto(bytes.as_slice())
                        .map_err(|error| Status::internal(error.to_string()))?;
                }
                known.insert(name);
            }
        }
        add_error_details(&mut pool).map_err(|error| Status::internal(error.to_string()))?;
        Ok(pool)
    }
}

fn request(ask: Ask) -> ServerReflectionRequest {
    ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    }
}

async fn send(
    asking: &mpsc::Sender<ServerReflectionRequest>,
    request: ServerReflectionRequest,
) -> Result<(), Status> {
    asking.send(request).await.map_err(|_| unexpected())
}

fn unexpected() -> Status {
    Status::internal("the server's reflection ended or answered something else")
}

/// Errors within an answer carry details whose types no method names.
fn add_error_details(pool: &mut DescriptorPool) -> Result<(), DescriptorError> {
    let set = tonic_types::pb::FILE_DESCRIPTOR_SET;
    let mut set = FileDescriptorSet::decode(set).unwrap_or_default();
    set.file.retain(|file| {
        let known = |name: &str| {
            let name = format!("{}.{name}", file.package());
            pool.get_message_by_name(&name).is_some()
        };
        !file.message_type.iter().any(|it| known(it.name()))
    });
    pool.add_file_descriptor_set(set)
}
