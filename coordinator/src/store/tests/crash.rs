//! Loss of power: after every operation that redb does on the disk, the power fails. The store that is found then has to
//! hold everything that was acknowledged, and of the commit under way all or nothing.

use qslm_common::evidence::Fingerprint;
use qslm_common::hash::ContentHash;
use qslm_common::job::Job;
use qslm_common::measurement::{Counts, Nll};
use qslm_common::task::Shard;
use qslm_common::trial::TrialKey;
use qslm_common::work::Made;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::disk::Disk;
use crate::store::{Contents, Store, Write};

/// Batches as a coordinator writes them: shards, then the sum that replaces them, and failures; jobs that are asked for, then
/// what they made.
fn batches() -> Vec<Vec<Write>> {
    let counts =
        |nll: u64| Counts { nll: Nll(nll), scored_tokens: 1, processed_tokens: 1, ..Counts::zero(40) }.into();
    let trial = |number: u64| TrialKey::of(&number.to_le_bytes());
    let mut batches = Vec::new();
    for number in 0..12 {
        // Of the size of one that names eight matrices.
        let job = Job::new("test", 100).parameter("number", number).parameter("text", "long ".repeat(100));
        let made = |bytes: u64| {
            let made =
                Made { artifact: ContentHash::of(&bytes.to_le_bytes()), engines: [Fingerprint(1)].into() };
            Write::Made(job.key(), made)
        };
        let shards = (0..3).map(|index| Write::Shard(trial(number), Shard { index, of: 3 }, counts(number)));
        let mut first: Vec<Write> = shards.collect();
        let mut second = vec![
            Write::Measurement(trial(number), counts(3 * number)),
            Write::Failure("x".to_owned(), trial(100 + number).into(), "broke ".repeat(50)),
        ];
        // Some are made so soon that it is the same transaction, and some by two workers that do not agree.
        let asked = if number % 4 == 3 { &mut second } else { &mut first };
        asked.push(Write::Job(job.clone()));
        second.push(made(number));
        second.push(Write::Binding("x".to_owned(), job.key(), ContentHash::of(&number.to_le_bytes())));
        if number % 6 == 5 {
            second.push(made(number + 1));
        }
        batches.push(first);
        batches.push(second);
    }
    batches
}

#[test]
fn whatever_was_acknowledged_is_there_after_the_power_failed_at_any_point() {
    for seed in 0..3 {
        let disk = Disk::default();
        let store = Store::on(disk.clone()).unwrap();
        // From here on; a store that never opened has nothing to lose.
        disk.fail_always(ChaCha8Rng::seed_from_u64(seed));
        let mut expected: Vec<Contents> = vec![store.contents().unwrap()];
        for batch in batches() {
            store.commit(&batch).unwrap();
            disk.mark();
            expected.push(store.contents().unwrap());
        }
        let all = store.contents().unwrap();
        assert_eq!((all.jobs.len(), all.made.len(), all.made_differently().count()), (12, 12, 2));
        drop(store);
        let images = disk.images();
        assert!(images.len() > 100, "{} points in time", images.len());
        for (point, (acknowledged, image)) in images.into_iter().enumerate() {
            let what = format!("seed {seed}, point {point}, {acknowledged} commits acknowledged");
            let store = Store::on(Disk::holding(image)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = store.contents().unwrap_or_else(|error| panic!("{what}: {error}"));
            let under_way = expected.get(acknowledged + 1);
            assert!(found == expected[acknowledged] || Some(&found) == under_way, "{what}: {found:?}");
            let nameless = found.made.keys().find(|job| !found.jobs.contains_key(*job));
            assert_eq!(nameless, None, "{what}: made, and nobody knows what it was");
        }
    }
}
