//! The references in `docs/reference` say what the programs and the gRPC interface are now.
//!
//! With `QSLM_WRITE=1` they are written instead.
#![allow(clippy::disallowed_methods, reason = "QSLM_WRITE is for whoever runs this test")]

use std::fmt::Write;
use std::path::Path;

use protox::prost_reflect::prost_types::source_code_info::Location;
use protox::prost_reflect::{Kind, MethodDescriptor};
use qslm_acceptance::{root, succeed};

/// Compares, or writes.
fn hold(name: &str, expected: &str) {
    let path = root().join("docs/reference").join(name);
    if std::env::var_os("QSLM_WRITE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reference/{name} is not up to date: see experiments/acceptance/tests/references.rs"
    );
}

#[test]
fn the_references_are_what_the_programs_say() {
    for which in ["spec", "configuration", "export", "metrics"] {
        hold(&format!("{which}.md"), &succeed(&["reference", which]));
    }
}

#[test]
fn the_reference_of_the_interface_is_what_the_proto_says() {
    let mut compiler = protox::Compiler::new([root().join("proto")]).unwrap();
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file(Path::new("qslm/v1/qslm.proto")).unwrap();
    let pool = compiler.descriptor_pool();
    let file = pool.get_file_by_name("qslm/v1/qslm.proto").unwrap();
    let locations = &file.file_descriptor_proto().source_code_info.as_ref().unwrap().location;
    let comment = |path: &[i32]| comment(locations, path);
    let mut text = "# gRPC interface\n\nMade of `proto/qslm/v1/qslm.proto` by `experiments/acceptance/tests/references.rs`. \
                    `experiments/python/qslm_client.py` is a client in a hundred lines.\n"
        .to_owned();
    for service in file.services() {
        write!(
            text,
            "\n## Service {}\n\n| call | takes | gives | what it does |\n| --- | --- | --- | --- |\n",
            service.name()
        )
        .unwrap();
        for method in service.methods() {
            writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                method.name(),
                takes(&method),
                gives(&method),
                comment(method.path())
            )
            .unwrap();
        }
    }
    for message in file.messages() {
        write!(text, "\n## {}\n", message.name()).unwrap();
        let about = comment(message.path());
        if !about.is_empty() {
            write!(text, "\n{about}\n").unwrap();
        }
        if message.fields().len() > 0 {
            text.push_str("\n| field | number | type | meaning |\n| --- | --- | --- | --- |\n");
        }
        for field in message.fields() {
            let kind = kind(&field.kind());
            let kind = match () {
                () if field.is_map() => {
                    let kind = field.kind();
                    let entry = kind.as_message().unwrap();
                    format!("map of string to {}", self::kind(&entry.map_entry_value_field().kind()))
                }
                () if field.is_list() => format!("list of {kind}"),
                () if field.supports_presence() && field.kind().as_message().is_none() => {
                    format!("optional {kind}")
                }
                () => kind,
            };
            writeln!(
                text,
                "| `{}` | {} | {kind} | {} |",
                field.name(),
                field.number(),
                comment(field.path())
            )
            .unwrap();
        }
        for (index, values) in message.child_enums().enumerate() {
            let names: Vec<String> =
                values.values().map(|value| format!("{} = {}", value.name(), value.number())).collect();
            write!(text, "\n{}{}: {}\n", if index == 0 { "" } else { "\n" }, values.name(), names.join(", "))
                .unwrap();
        }
    }
    hold("proto.md", &text);
}

/// Comment before something, on one line.
fn comment(locations: &[Location], path: &[i32]) -> String {
    let location = locations.iter().find(|location| location.path == path);
    let words = location.map_or("", |location| location.leading_comments());
    words.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "or")
}

fn takes(method: &MethodDescriptor) -> String {
    format!("{}{}", if method.is_client_streaming() { "stream of " } else { "" }, method.input().name())
}

fn gives(method: &MethodDescriptor) -> String {
    format!("{}{}", if method.is_server_streaming() { "stream of " } else { "" }, method.output().name())
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(values) => values.name().to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}
