//! Quotas of a client: uploads under way, and experiments that it submitted.
//!
//! A client is the name beside its token, or the address that it calls from where nobody needs a token. Counted since the
//! coordinator started; experiments that have ended do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qslm_transport::gate::{ClientName, busy};
use tonic::Status;

/// Time to try again after: an upload or an experiment takes a while.
const LATER: Duration = Duration::from_secs(5);
/// Clients that are told apart. More share what the first ones left, so that nobody fills memory with addresses.
const MOST_CLIENTS: usize = 10_000;

/// Bounds of a coordinator.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    /// Uploads that one client may have under way.
    pub uploads_per_client: u32,
    /// Experiments of one client that have not ended.
    pub experiments_per_client: u32,
    /// Bytes of all artifacts together.
    pub artifacts_max_bytes: u64,
}

impl Quotas {
    /// No bounds.
    pub const NONE: Self = Self {
        uploads_per_client: u32::MAX,
        experiments_per_client: u32::MAX,
        artifacts_max_bytes: u64::MAX,
    };
}

/// Quotas with what every client has under way.
#[derive(Clone)]
pub(super) struct ClientQuotas {
    quotas: Quotas,
    clients: Arc<Mutex<BTreeMap<String, UnderWay>>>,
}

#[derive(Default)]
struct UnderWay {
    uploads: u32,
    experiments: BTreeSet<String>,
}

/// An upload that counts until it is dropped.
pub(super) struct Upload {
    quotas: ClientQuotas,
    client: String,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(client) = self.quotas.clients().get_mut(&self.client) {
            client.uploads -= 1;
        }
    }
}

impl ClientQuotas {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self { quotas, clients: Arc::default() }
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<String, UnderWay>> {
        // What a panic interrupted is a number or a name, whole either way.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Place for one more upload of a client.
    pub(super) fn upload(&self, client: &ClientName) -> Result<Upload, Status> {
        let mut clients = self.clients();
        let name = name(client, &clients);
        let under_way = clients.entry(name.clone()).or_default();
        let most = self.quotas.uploads_per_client;
        if under_way.uploads >= most {
            return Err(busy(&format!("{name} has {most} uploads under way (uploads_per_client)"), LATER));
        }
        under_way.uploads += 1;
        Ok(Upload { quotas: self.clone(), client: name })
    }

    /// True if a client has so many experiments that the ended ones have to be told from the others to answer for `id`.
    pub(super) fn is_full(&self, client: &ClientName, id: &str) -> bool {
        let clients = self.clients();
        let under_way = clients.get(&name(client, &clients));
        under_way.is_some_and(|client| !client.experiments.contains(id) && self.has_most(client))
    }

    /// Forgets experiments that have ended.
    pub(super) fn forget(&self, ended: &BTreeSet<String>) {
        self.clients().values_mut().for_each(|client| client.experiments.retain(|id| !ended.contains(id)));
    }

    /// Place for one more experiment of a client. The same one counts once.
    pub(super) fn submit(&self, client: &ClientName, id: &str) -> Result<(), Status> {
        let mut clients = self.clients();
        let name = name(client, &clients);
        let under_way = clients.entry(name.clone()).or_default();
        if !under_way.experiments.contains(id) && self.has_most(under_way) {
            let most = self.quotas.experiments_per_client;
            let words = format!("{name} has {most} experiments under way (experiments_per_client)");
            return Err(busy(&words, LATER));
        }
        under_way.experiments.insert(id.to_owned());
        Ok(())
    }

    fn has_most(&self, client: &UnderWay) -> bool {
        client.experiments.len() >= self.quotas.experiments_per_client as usize
    }
}

fn name(client: &ClientName, known: &BTreeMap<String, UnderWay>) -> String {
    let full = known.len() >= MOST_CLIENTS && !known.contains_key(&client.0);
    if full { "others".to_owned() } else { client.0.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas() -> ClientQuotas {
        ClientQuotas::new(Quotas { uploads_per_client: 2, experiments_per_client: 2, ..Quotas::NONE })
    }

    #[test]
    fn an_upload_counts_until_it_is_over() {
        let (quotas, alice, bob) = (quotas(), ClientName("alice".to_owned()), ClientName("bob".to_owned()));
        let first = quotas.upload(&alice).unwrap();
        let _second = quotas.upload(&alice).unwrap();
        let refusal = quotas.upload(&alice).err().unwrap();
        assert_eq!(refusal.message(), "alice has 2 uploads under way (uploads_per_client)");
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        let _other = quotas.upload(&bob).unwrap();
        drop(first);
        assert!(quotas.upload(&alice).is_ok());
    }

    #[test]
    fn experiments_that_have_ended_make_room() {
        let (quotas, alice) = (quotas(), ClientName("alice".to_owned()));
        for id in ["a", "a", "b"] {
            assert!(!quotas.is_full(&alice, id));
            quotas.submit(&alice, id).unwrap();
        }
        assert!(quotas.is_full(&alice, "c") && !quotas.is_full(&alice, "a"));
        assert!(quotas.submit(&alice, "c").is_err() && quotas.submit(&alice, "b").is_ok());
        quotas.forget(&BTreeSet::from(["a".to_owned()]));
        quotas.submit(&alice, "c").unwrap();
    }

    #[test]
    fn clients_beyond_a_bound_are_one() {
        let quotas = quotas();
        for number in 0..MOST_CLIENTS + 5 {
            drop(quotas.submit(&ClientName(number.to_string()), "x"));
        }
        assert_eq!(quotas.clients().len(), MOST_CLIENTS + 1);
    }
}
