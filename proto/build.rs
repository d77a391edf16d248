//! Generates the gRPC code and the descriptor set, without protoc.

use std::{env, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if env::var_os("CARGO_FEATURE_GRPC").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed=aqueduct");
    println!("cargo:rerun-if-changed=google");
    let files = ["types", "topics", "publisher", "reader", "ops"]
        .map(|name| format!("aqueduct/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_well_known_types(false)
        .compile_fds(descriptors)?;
    Ok(())
}
