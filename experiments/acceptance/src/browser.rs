//! A headless Chromium, driven through chromedriver.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use serde_json::{Value, json};

/// Of a window on a desk, in pixels.
const WIDTH: u32 = 1100;
const HEIGHT: u32 = 700;

/// A browser with one window. Ends when dropped.
pub struct Browser {
    /// Client that drives it.
    pub client: Client,
    driver: Child,
}

/// Command for what the page said in the console.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}

/// The page as PDF, in base64.
#[derive(Debug)]
struct Print;

impl WebDriverCompatibleCommand for Print {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/print", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some("{}".to_owned()))
    }
}

/// Command of Chromium's own protocol.
#[derive(Debug)]
struct Devtools {
    name: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for Devtools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let Self { name, parameters } = self;
        (http::Method::POST, Some(json!({ "cmd": name, "params": parameters }).to_string()))
    }
}

/// Starts chromedriver on a port of its choice. `None` if it ends instead.
fn start_driver() -> Option<(Child, String)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver: install chromium and chromium-driver");
    let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
    let started =
        said.by_ref().map(Result::unwrap).find(|line| line.contains("started successfully on port"));
    let Some(started) = started else {
        driver.wait().unwrap();
        return None;
    };
    // Whatever else it says is not read, so it must not fill the pipe.
    std::thread::spawn(move || said.for_each(drop));
    Some((driver, started.chars().filter(char::is_ascii_digit).collect()))
}

impl Browser {
    /// Starts Chromium with a window as on a desk.
    pub async fn desktop() -> Self {
        Self::start(json!({})).await
    }

    /// Starts Chromium as on a phone.
    pub async fn phone() -> Self {
        let metrics = json!({ "width": 390, "height": 844, "pixelRatio": 2.0, "mobile": true });
        Self::start(json!({ "deviceMetrics": metrics })).await
    }

    async fn start(emulation: Value) -> Self {
        // It looks for a port that is free twice, and another program may have taken it in between.
        let (driver, port) =
            (0..5).find_map(|_| start_driver()).expect("chromedriver says no port, five times");
        let size = format!("--window-size={WIDTH},{HEIGHT}");
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", &size];
        let mut options = json!({ "args": arguments });
        if emulation != json!({}) {
            options["mobileEmulation"] = emulation;
        }
        let capabilities = json!({
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let mut builder = ClientBuilder::new(fantoccini_connector());
        builder.capabilities(capabilities.as_object().unwrap().clone());
        let client = builder.connect(&format!("http://127.0.0.1:{port}")).await.unwrap();
        Self { client, driver }
    }

    /// Shows pages as they look on a `medium`, `screen` or `print`, to people who like `scheme`, `light` or `dark`.
    pub async fn look(&self, medium: &str, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let parameters = json!({ "media": medium, "features": features });
        let command = Devtools { name: "Emulation.setEmulatedMedia", parameters };
        self.client.issue_cmd(command).await.unwrap();
    }

    /// Value of an expression in JavaScript.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return ({expression});"), Vec::new()).await.unwrap()
    }

    /// Fails if the page complained in the console.
    pub async fn has_no_complaints(&self) {
        let said = self.client.issue_cmd(Console).await.unwrap();
        assert_eq!(said, json!([]), "the console is not empty");
    }

    /// Fails if the page is wider than the window.
    pub async fn fits_its_width(&self) {
        let (wide, window) =
            (self.value("document.documentElement.scrollWidth").await, self.value("innerWidth").await);
        assert!(wide.as_f64() <= window.as_f64(), "the page is {wide} wide in a window of {window}");
    }

    /// The page as it is printed: a PDF in base64.
    pub async fn printed(&self) -> String {
        self.client.issue_cmd(Print).await.unwrap().as_str().unwrap().to_owned()
    }

    /// Leaves a picture of the window as it is.
    pub async fn screenshot(&self, path: &Path) {
        std::fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }

    /// Leaves a picture of the window, made as high as the page.
    pub async fn picture(&self, path: &Path) {
        self.picture_of_width(WIDTH, path).await;
    }

    /// The same of a window of another width.
    pub async fn picture_of_width(&self, width: u32, path: &Path) {
        self.client.set_window_size(width, HEIGHT).await.unwrap();
        let height = self.value("document.documentElement.scrollHeight").await.as_f64().unwrap() as u32;
        self.client.set_window_size(width, height.max(HEIGHT) + 150).await.unwrap();
        std::fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }
}

/// Plain HTTP: the driver runs on this machine.
fn fantoccini_connector() -> hyper_util::client::legacy::connect::HttpConnector {
    hyper_util::client::legacy::connect::HttpConnector::new()
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes its browsers with it.
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}
