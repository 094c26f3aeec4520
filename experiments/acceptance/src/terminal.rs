//! A terminal: a program on a pseudo-terminal, and the screen that it draws.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// Time in which a screen has to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program on a terminal. Killed when dropped.
pub struct Terminal {
    parser: vt100::Parser,
    output: Receiver<Vec<u8>>,
    input: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    _master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// Starts a program on a terminal of this size.
    pub fn start(program: &Path, arguments: &[&str], lines: u16, columns: u16) -> Self {
        let size = PtySize { rows: lines, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(program);
        command.args(arguments);
        command.env("TERM", "xterm-256color");
        command.cwd(crate::root());
        let child = pty.slave.spawn_command(command).unwrap();
        let mut reader = pty.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let input = pty.master.take_writer().unwrap();
        let parser = vt100::Parser::new(lines.try_into().unwrap(), columns.try_into().unwrap(), 0);
        Self { parser, output, input, child, _master: pty.master }
    }

    /// Text on the screen.
    pub fn screen(&self) -> String {
        self.parser.screen().contents()
    }

    /// Waits until the screen is as wanted.
    pub fn wait_until(&mut self, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !wanted(&self.screen()) {
            match self.output.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(error) => panic!("{error}; the screen was:\n{}", self.screen()),
            }
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
        self.input.flush().unwrap();
    }

    /// Waits for the end: the exit code, and whether the terminal is as it was before.
    pub fn finish(mut self) -> (u32, bool) {
        while let Ok(bytes) = self.output.recv_timeout(PATIENCE) {
            self.parser.process(&bytes);
        }
        let code = self.child.wait().unwrap().exit_code();
        let screen = self.parser.screen();
        (code, !screen.alternate_screen() && !screen.hide_cursor())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
