//! A container engine of our own, so that tests build and run the real image.
//!
//! Needs root, and `dockerd` with `docker` (Debian's docker.io). No registry is asked for anything.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::{Running, root};

/// An engine on a socket of its own. It is gone, with its containers and images, when this is dropped.
pub struct Engine {
    daemon: Child,
    folder: tempfile::TempDir,
}

impl Engine {
    /// Starts it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("qslm-docker").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let daemon = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--log-level=error"])
            .arg(format!("--host=unix://{}", at("socket").display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("run"))
            .arg("--pidfile")
            .arg(at("pid"))
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("dockerd (docker.io)");
        let engine = Self { daemon, folder };
        let start = std::time::Instant::now();
        while !engine.docker(&["version"]).status.success() {
            assert!(start.elapsed().as_secs() < 60, "dockerd does not answer");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    /// Runs docker until it ends.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker").args(arguments).env("DOCKER_HOST", self.host()).output().expect("docker")
    }

    /// Runs docker, expects success, and gives its standard output.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The log of a container, from its beginning on.
    pub fn log(&self, container: &str) -> Running {
        let mut docker = Command::new("docker");
        Running::start(docker.args(["logs", "--follow", container]).env("DOCKER_HOST", self.host()))
    }

    /// Builds the image under a tag, with the program in it if that is not built yet, which takes a quarter of an hour.
    pub fn build(&self, tag: &str) {
        let mut build = Command::new(root().join("k8s/image/build"));
        // What Cargo tells its tests is for them alone: build scripts that ask for it would run again, and all that follows.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&name);
            }
        }
        let output = build.arg(tag).env("DOCKER_HOST", self.host()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A folder for a volume, which the image's user may write.
    pub fn volume(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(65532), Some(65532)).unwrap();
        path
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let all = self.docker(&["ps", "--all", "--quiet"]);
        for container in String::from_utf8_lossy(&all.stdout).split_whitespace() {
            self.docker(&["rm", "--force", "--volumes", container]);
        }
        // In order, so that nothing stays mounted in the folder.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}
