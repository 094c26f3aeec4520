//! Records of what people are shown beside results: samples of progress, and points of other tools.

use qslm_report::{BestSoFar, Comparison, Reference, Sample};
use serde::{Deserialize, Serialize};

use super::{UnreadableRecord, decode_json, encode_json};

const SAMPLE_V1: u8 = 1;
const COMPARISON_V1: u8 = 1;

/// The progress of an experiment at a time.
#[derive(Serialize, Deserialize)]
struct SampleRecord {
    /// Milliseconds since 1970 in UTC.
    unix_ms: u64,
    measured: u64,
    front: u32,
    hypervolume: Option<f64>,
    tokens_per_second: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<BestRecord>,
}

/// The best candidate by then.
#[derive(Serialize, Deserialize)]
struct BestRecord {
    saving: f64,
    quality_loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quality_loss_interval: Option<(f64, f64)>,
}

impl From<&Sample> for SampleRecord {
    fn from(sample: &Sample) -> Self {
        // Every field by name, so that the next one is not forgotten.
        let Sample { unix_ms, measured, front, hypervolume, tokens_per_second, best } = *sample;
        let best = best.map(|BestSoFar { saving, quality_loss, quality_loss_interval }| BestRecord {
            saving,
            quality_loss,
            quality_loss_interval,
        });
        Self { unix_ms, measured, front, hypervolume, tokens_per_second, best }
    }
}

impl From<SampleRecord> for Sample {
    fn from(record: SampleRecord) -> Self {
        let SampleRecord { unix_ms, measured, front, hypervolume, tokens_per_second, best } = record;
        let best = best.map(|BestRecord { saving, quality_loss, quality_loss_interval }| BestSoFar {
            saving,
            quality_loss,
            quality_loss_interval,
        });
        Self { unix_ms, measured, front, hypervolume, tokens_per_second, best }
    }
}

/// Points of another tool.
#[derive(Serialize, Deserialize)]
struct ComparisonRecord {
    source: String,
    points: Vec<PointRecord>,
}

#[derive(Serialize, Deserialize)]
struct PointRecord {
    label: String,
    saving: f64,
    quality_loss: f64,
}

impl From<&Comparison> for ComparisonRecord {
    fn from(Comparison { source, points }: &Comparison) -> Self {
        let points = points.iter().map(|Reference { label, saving, quality_loss }| PointRecord {
            label: label.clone(),
            saving: *saving,
            quality_loss: *quality_loss,
        });
        Self { source: source.clone(), points: points.collect() }
    }
}

impl From<ComparisonRecord> for Comparison {
    fn from(ComparisonRecord { source, points }: ComparisonRecord) -> Self {
        let point = |PointRecord { label, saving, quality_loss }| Reference { label, saving, quality_loss };
        Self { source, points: points.into_iter().map(point).collect() }
    }
}

pub(in crate::store) fn encode_sample(sample: &Sample) -> Vec<u8> {
    encode_json(SAMPLE_V1, &SampleRecord::from(sample))
}

pub(in crate::store) fn decode_sample(bytes: &[u8]) -> Result<Sample, UnreadableRecord> {
    Ok(decode_json::<SampleRecord>("sample", SAMPLE_V1, bytes)?.into())
}

pub(in crate::store) fn encode_comparison(comparison: &Comparison) -> Vec<u8> {
    encode_json(COMPARISON_V1, &ComparisonRecord::from(comparison))
}

pub(in crate::store) fn decode_comparison(bytes: &[u8]) -> Result<Comparison, UnreadableRecord> {
    Ok(decode_json::<ComparisonRecord>("comparison", COMPARISON_V1, bytes)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_version_1_stay_readable() {
        let body = r#"{"unix_ms":5,"measured":2,"front":1,"hypervolume":0.25,"tokens_per_second":1.5}"#;
        let fixture = [&[1], body.as_bytes()].concat();
        let mut sample = Sample {
            unix_ms: 5,
            measured: 2,
            front: 1,
            hypervolume: Some(0.25),
            tokens_per_second: 1.5,
            best: None,
        };
        assert_eq!(encode_sample(&sample), fixture);
        assert_eq!(decode_sample(&fixture).unwrap(), sample);
        // With the best candidate, which earlier versions do not look at.
        sample.best =
            Some(BestSoFar { saving: 0.5, quality_loss: 0.25, quality_loss_interval: Some((0.125, 0.375)) });
        let best = r#","best":{"saving":0.5,"quality_loss":0.25,"quality_loss_interval":[0.125,0.375]}}"#;
        let fixture = [&fixture[..fixture.len() - 1], best.as_bytes()].concat();
        assert_eq!(encode_sample(&sample), fixture);
        assert_eq!(decode_sample(&fixture).unwrap(), sample);
    }

    #[test]
    fn comparisons_of_version_1_stay_readable() {
        let body = concat!(
            r#"{"source":"optuna","points":[{"label":"trial 7","saving":0.75,"quality_loss":0.0125},"#,
            r#"{"label":"","saving":-0.5,"quality_loss":1e-7}]}"#,
        );
        let fixture = [&[1], body.as_bytes()].concat();
        let point =
            |label: &str, saving, quality_loss| Reference { label: label.to_owned(), saving, quality_loss };
        let points = vec![point("trial 7", 0.75, 0.0125), point("", -0.5, 1e-7)];
        let comparison = Comparison { source: "optuna".to_owned(), points };
        assert_eq!(encode_comparison(&comparison), fixture);
        assert_eq!(decode_comparison(&fixture).unwrap(), comparison);
        // As the report's own type is written, from which the record was told apart.
        assert_eq!(serde_json::to_string(&comparison).unwrap(), body);
    }
}
