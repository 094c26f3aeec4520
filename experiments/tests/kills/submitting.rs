//! `qslm submit` while the coordinator dies.

use std::process::{Child, Command, Stdio};

use crate::support::{QSLM, root};

/// `qslm submit` under way, which is called again when the coordinator dies meanwhile, as people do.
pub struct Submitting {
    pub arguments: Vec<String>,
    pub child: Option<Child>,
}

impl Submitting {
    pub fn start(arguments: &[&str], url: &str) -> Self {
        let arguments = [&["submit"], arguments, &["--coordinator", url]].concat();
        let mut submitting =
            Self { arguments: arguments.into_iter().map(str::to_owned).collect(), child: None };
        submitting.call();
        submitting
    }

    pub fn call(&mut self) {
        let mut command = Command::new(QSLM);
        command.args(&self.arguments).current_dir(root()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.child = Some(command.spawn().unwrap());
    }

    /// The experiment's id, if it is submitted by now.
    pub fn id(&mut self) -> Option<String> {
        self.child.as_mut().unwrap().try_wait().unwrap()?;
        let id = self.end();
        if id.is_none() {
            self.call();
        }
        id
    }

    /// Waits for the experiment's id.
    pub fn wait(mut self) -> String {
        loop {
            match self.end() {
                Some(id) => return id,
                None => self.call(),
            }
        }
    }

    /// Waits for the end of the call: the experiment's id, unless the coordinator died.
    pub fn end(&mut self) -> Option<String> {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => Some(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
            Some(5) => None,
            _ => {
                panic!("{:?}: {} {}", self.arguments, output.status, String::from_utf8_lossy(&output.stderr))
            }
        }
    }
}

impl Drop for Submitting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
