//! Generates the gRPC code and the descriptor set, without protoc.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if env::var_os("CARGO_FEATURE_GRPC").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed=aqueduct");
    println!("cargo:rerun-if-changed=google");
    let files = [
        "types",
        "topics",
        "publisher",
        "reader",
        "groups",
        "consumer",
        "queues",
        "schedules",
        "dead_letters",
        "ops",
    ]
    .map(|name| format!("aqueduct/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded by the compiler, because the HTTP annotations are extensions, which the plain
    // messages of the descriptors would lose.
    std::fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::BoundedCodec")
        .compile_well_known_types(false)
        // Few messages have them, and millions a second do not.
        .boxed(".aqueduct.v1.Message.delay")
        .boxed(".aqueduct.v1.Message.deliver_at")
        .boxed(".aqueduct.v1.Message.ttl")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
