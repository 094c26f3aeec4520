//! Certificate authorities for tests.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// Certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// An authority of its own, known to no program yet.
    #[allow(clippy::new_without_default, reason = "every one is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        // By its name the holder of a certificate is told from who signed it.
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its own certificate.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).unwrap();
    }

    /// Writes a certificate for a name or address, and its key beside it.
    pub fn sign(&self, name: &str, certificate: &Path, key: &Path) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate().unwrap();
        // The key first: a certificate without its key is a rotation that is half done.
        std::fs::write(key, pair.serialize_pem()).unwrap();
        std::fs::write(certificate, params.signed_by(&pair, &self.0).unwrap().pem()).unwrap();
    }
}
