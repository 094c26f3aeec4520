//! Several hosts on one machine: network namespaces, each with an address of its own, on one switch.
//!
//! Needs root and `ip` (Debian's iproute2), and Linux.

use std::process::{Command, Output};

use crate::program;

/// A network. It is gone when this is dropped.
pub struct Network {
    /// Prefix that tells the namespaces of tests that run at the same time apart.
    prefix: String,
    hosts: u8,
}

/// A host of a network.
#[derive(Clone)]
pub struct Host {
    namespace: String,
    /// Its end of the cable at the switch.
    cable: String,
    switch: String,
    /// Its address.
    pub address: String,
}

impl Network {
    /// A switch without hosts. `prefix` has at most four characters.
    pub fn new(prefix: &str) -> Self {
        let network = Self { prefix: prefix.to_owned(), hosts: 0 };
        network.remove();
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        network
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    /// One more host.
    pub fn host(&mut self) -> Host {
        self.hosts += 1;
        let (namespace, cable) = (format!("{}-{}", self.prefix, self.hosts), format!("port{}", self.hosts));
        let (switch, address) = (self.switch(), format!("10.77.0.{}", self.hosts));
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&[
            "-n", &namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &cable, "netns", &switch,
        ]);
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &switch, "link", "set", &cable, "master", "br0", "up"]);
        Host { namespace, cable, switch, address }
    }

    fn remove(&self) {
        let all = Command::new("ip").args(["netns", "list"]).output().expect("ip (iproute2)");
        let ours = format!("{}-", self.prefix);
        for line in String::from_utf8_lossy(&all.stdout).lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if name.starts_with(&ours) {
                ip(&["netns", "delete", name]);
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Host {
    /// One of our programs, to be run on this host.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program(name));
        command
    }

    /// Runs a command on this host until it ends.
    pub fn run(&self, command: &Command) -> Output {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace]).arg(command.get_program()).args(command.get_args());
        inside.output().unwrap()
    }

    /// Pulls the cable out. Nobody is told: what is sent is lost.
    pub fn cut(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.cable, "down"]);
    }

    /// Puts it in again.
    pub fn heal(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.cable, "up"]);
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2)");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
