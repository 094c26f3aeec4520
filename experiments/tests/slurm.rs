//! The scripts for Slurm: their bodies, with a stand-in for `srun` that runs its command here.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the programs are found by PATH")]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;
use support::{QSLM, root, succeed};

/// A script with its arguments, as Slurm would start it.
fn script(name: &str, arguments: &[&str], folder: &Path, port: u16) -> Child {
    let programs = Path::new(QSLM).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    Command::new("bash")
        .arg(root().join("experiments/slurm").join(name))
        .args(arguments)
        .current_dir(root())
        .env("PATH", format!("{}:{}:{path}", folder.display(), programs.display()))
        .env("QSLM_PORT", port.to_string())
        .env("SLURM_CPUS_PER_TASK", "2")
        .env("SLURM_TMPDIR", folder)
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_sweep_and_its_workers_leave_front_report_and_export_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let srun = folder.path().join("srun");
    std::fs::write(&srun, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    std::fs::set_permissions(&srun, std::fs::Permissions::from_mode(0o755)).unwrap();
    // On this host alone, whatever it is called.
    let hostname = folder.path().join("hostname");
    std::fs::write(&hostname, "#!/bin/sh\necho 127.0.0.1\n").unwrap();
    std::fs::set_permissions(&hostname, std::fs::Permissions::from_mode(0o755)).unwrap();
    let spec = folder.path().join("spec.toml");
    let plain = std::fs::read_to_string(root().join("experiments/specs/plain.toml")).unwrap();
    let at = |path: &str| format!("\"{}/", root().join("experiments").join(path).display());
    let small = plain.replace("\"../models/", &at("models")).replace("\"../data/", &at("data"));
    std::fs::write(&spec, small).unwrap();

    let sweep = folder.path().join("sweep");
    let (port, sweep) = (free_port(), sweep.to_str().unwrap());
    // Workers come first, and one is told to stop and queued again.
    let mut preempted = script("workers.sbatch", &[sweep], folder.path(), port);
    let mut worker = script("workers.sbatch", &[sweep], folder.path(), port);
    let mut job = script("sweep.sbatch", &[spec.to_str().unwrap(), sweep], folder.path(), port);
    Command::new("kill").arg(preempted.id().to_string()).status().unwrap();
    assert!(!preempted.wait().unwrap().success());
    assert!(job.wait().unwrap().success());
    assert!(worker.wait().unwrap().success(), "all is done, and so is the worker");
    // A task of the array that comes to its turn only now has nobody to ask.
    let mut late = script("workers.sbatch", &[sweep], folder.path(), port);
    assert!(late.wait().unwrap().success());

    let here = folder.path().join("here.redb");
    let spec = spec.to_str().unwrap();
    let alone = succeed(&["run", spec, "--store", here.to_str().unwrap(), "--output", "json"]);
    let front = std::fs::read_to_string(Path::new(sweep).join("front.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&front).unwrap(),
        serde_json::from_str::<Value>(&alone).unwrap()
    );
    for file in ["report.html", "export.csv", "packed.safetensors", "done"] {
        assert!(Path::new(sweep).join(file).exists(), "{file}");
    }
    let mode = std::fs::metadata(Path::new(sweep).join("worker.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o77, 0, "nobody else reads the token");
}
