//! The Python package against the real broker: its own tests (pytest), and its types (mypy).
//!
//! A virtual environment is made under cargo's target directory and kept, by the package's
//! manifest, the names of its files and the interpreter; later runs take seconds. The package is built and installed as
//! a user would have it. What pytest says is printed, and its failure is this test's failure.

use std::{
    collections::hash_map::DefaultHasher,
    ffi::OsStr,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use aqueduct_proto::v1::DESCRIPTORS;
use aqueduct_tests::{input::workspace, process::binary};

use crate::fixture::Fixture;

/// What the interpreter must be able to do: old enough Pythons and those of Debian without
/// python3-venv fail here.
const PROBE: &str = "import sys, venv, ensurepip; assert sys.version_info >= (3, 10), sys.version; \
                     print(sys.version, sys.executable)";

#[test]
fn the_python_package() {
    let package = workspace().join("client/python");
    let environment = environment(&package);
    let python = environment.join("bin/python");
    let mut broker = Fixture::new();
    let descriptors = broker.directory.path().join("descriptors.bin");
    fs::write(&descriptors, DESCRIPTORS).unwrap();

    let mypy_cache = environment.join("mypy");
    let types = in_package(&package, &python)
        .args(["-m", "mypy", "--cache-dir"])
        .arg(&mypy_cache)
        .output()
        .unwrap();
    show("mypy", &types);
    let tests = in_package(&package, &python)
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--durations=5"])
        .env("AQUEDUCT_SERVER", broker.process.address().to_string())
        .env("AQUEDUCT_BIN", binary())
        .env("BROKER_DESCRIPTORS", &descriptors)
        .output()
        .unwrap();
    show("pytest", &tests);
    assert!(types.status.success(), "mypy found something (above)");
    assert!(
        tests.status.success(),
        "tests of the package failed (above)"
    );
    broker.assert_serves();
}

/// The environment's interpreter, working on the sources and not on the installed copy of them.
fn in_package(package: &Path, python: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .current_dir(package)
        .env("PYTHONPATH", package.join("src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null());
    command
}

fn show(what: &str, output: &Output) {
    println!(
        "--- {what} ---\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A virtual environment with the package and what its tests need.
fn environment(package: &Path) -> PathBuf {
    let interpreter = interpreter();
    let manifest = fs::read_to_string(package.join("pyproject.toml")).unwrap();
    let mut hasher = DefaultHasher::new();
    (&interpreter, manifest, names(&package.join("src"))).hash(&mut hasher);
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let environment = home.join(format!("python-{:016x}", hasher.finish()));
    // Written last, so that an interrupted installation is begun anew.
    let complete = environment.join("complete");
    if complete.is_file() {
        return environment;
    }
    remove_others(home);
    run(
        "python3",
        &["-m".as_ref(), "venv".as_ref(), environment.as_ref()],
    );
    let target = format!("{}[test]", package.display());
    let install: [&OsStr; 5] = [
        "-m".as_ref(),
        "pip".as_ref(),
        "install".as_ref(),
        "--quiet".as_ref(),
        target.as_ref(),
    ];
    run(environment.join("bin/python"), &install);
    fs::write(complete, interpreter).unwrap();
    environment
}

/// The files of the package: a new one has to be in what is installed, too.
fn names(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("__pycache__") {
            found.extend(names(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Environments of earlier manifests are of no use any more.
fn remove_others(home: &Path) {
    for entry in fs::read_dir(home).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("python-") {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

/// What `python3` is; Debian's packages are installed if it is not there or lacks its venv.
fn interpreter() -> String {
    probe().unwrap_or_else(|why| {
        println!("no usable python3 ({why}); installing it");
        let installed = install_debian_packages();
        probe().unwrap_or_else(|why| {
            panic!(
                "this test needs python3 (3.10 or later) with its venv module: {why}\n\
                 apt-get: {installed:?}"
            )
        })
    })
}

fn probe() -> Result<String, String> {
    let output = Command::new("python3").args(["-c", PROBE]).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn install_debian_packages() -> Result<(), String> {
    for arguments in [
        &["update", "-q"][..],
        &["install", "-q", "-y", "python3", "python3-venv"],
    ] {
        let status = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .status()
            .map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("apt-get {}: {status}", arguments.join(" ")));
        }
    }
    Ok(())
}

/// Runs a step of the installation to its end.
#[track_caller]
fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{}{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
