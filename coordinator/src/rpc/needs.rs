//! Roles that calls take.

use qslm_transport::{Needs, Role};

/// The need of a call of this path. What is not listed needs any token, so that a new call is not open by mistake.
pub fn needs(path: &str) -> Needs {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match (service, method) {
        ("grpc.health.v1.Health", _) => Needs::Nothing,
        ("qslm.v1.Work", _) => Needs::Role(Role::Worker),
        (
            "qslm.v1.Experiments",
            "MissingArtifacts" | "PutArtifact" | "FetchArtifact" | "Make" | "Submit" | "Change" | "Retry"
            | "Tell" | "Prune" | "Backup" | "Collect",
        ) => Needs::Role(Role::Submitter),
        (
            "qslm.v1.Experiments",
            "List" | "Get" | "Watch" | "Front" | "Describe" | "Candidates" | "Cluster" | "Space" | "Told",
        ) => Needs::Role(Role::Reader),
        ("qslm.v1.Experiments", _) => Needs::Role(Role::Submitter),
        _ => Needs::Anyone,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_takes_a_role() {
        let set = FileDescriptorSet::decode(qslm_proto::DESCRIPTORS).unwrap();
        let mut roles = Vec::new();
        for service in
            set.file.iter().filter(|file| file.package() == "qslm.v1").flat_map(|file| &file.service)
        {
            for method in &service.method {
                let path = format!("/qslm.v1.{}/{}", service.name(), method.name());
                roles.push((format!("{}.{}", service.name(), method.name()), needs(&path)));
            }
        }
        let of = |role| roles.iter().filter(|(_, needs)| *needs == Needs::Role(role)).count();
        assert_eq!((of(Role::Worker), of(Role::Reader), of(Role::Submitter), roles.len()), (5, 9, 11, 25));
    }

    #[test]
    fn what_nobody_knows_is_not_open() {
        for path in
            ["", "/", "/x", "/qslm.v1.Work", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
        {
            assert_ne!(needs(path), Needs::Nothing, "{path}");
        }
        assert_eq!(needs("/qslm.v1.Experiments/Drop"), Needs::Role(Role::Submitter));
        assert_eq!(needs("/grpc.health.v1.Health/Check"), Needs::Nothing);
    }
}
