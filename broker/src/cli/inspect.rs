//! `firn inspect`: prints what an object of the bucket, or a copy of one, or a file of a local WAL
//! holds.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use firn_coordinator::inspect::{entry_lines, snapshot_lines};
use firn_proto::env::{Entropy, SystemClock};
use firn_storage::bucket::{Bucket, BucketOptions, Purpose};
use firn_storage::inspect::{Inspection, OfCoordinator, inspect};
use firn_storage::layout::ObjectName;

use crate::cli::runtime;
use crate::config::ConfigError;
use crate::error::FirnError;

/// Flags of `firn inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// A file, or the URL of an object: file://DIR/…, s3://BUCKET/PREFIX/…?endpoint=URL&region=R
    #[arg(value_name = "FILE|URL")]
    object: String,
}

/// Prints what the object holds; fails if it is damaged or not Firn's.
pub(super) fn run(args: &InspectArgs) -> Result<ExitCode, FirnError> {
    let what = format!("cannot inspect {}", args.object);
    let bytes = match args.object.split_once("://") {
        Some((scheme, path)) if scheme != "file" => {
            let (root, key) = split(scheme, path).ok_or_else(|| not_an_object(&args.object))?;
            runtime()?
                .block_on(download(&root, &key))
                .map_err(|e| FirnError::failed(&what, e))?
        }
        Some((_, path)) => read(Path::new(path)).map_err(|e| FirnError::failed(&what, e))?,
        None => read(Path::new(&args.object)).map_err(|e| FirnError::failed(&what, e))?,
    };
    let inspection = inspect(&bytes, OF_COORDINATOR)
        .ok_or_else(|| FirnError::failed(&what, "it is nothing that firn writes"))?;
    show(&inspection);
    match inspection.faults.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// How what the coordinator keeps becomes text.
const OF_COORDINATOR: OfCoordinator = OfCoordinator {
    entry: |body| entry_lines(body).map_err(|error| error.to_string()),
    snapshot: |body| snapshot_lines(body).map_err(|error| error.to_string()),
};

/// Cuts the URL of an object into that of its bucket and its name in it.
fn split(scheme: &str, path: &str) -> Option<(String, ObjectName)> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    path.match_indices('/').find_map(|(at, _)| {
        let name = ObjectName::parse(&path[at + 1..])?;
        let root = format!("{scheme}://{}?{query}", &path[..at]);
        Some((root.trim_end_matches('?').to_owned(), name))
    })
}

async fn download(root: &str, name: &ObjectName) -> Result<Bytes, String> {
    let clock = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_os());
    let options = BucketOptions::of_process(false);
    let connected = Bucket::connect(root, &options, clock, entropy).await;
    let bucket = connected.map_err(|e| e.to_string())?;
    let found = bucket.get(Purpose::Meta, &name.key()).await;
    found
        .map_err(|e| e.to_string())?
        .ok_or_else(|| "there is no such object".to_owned())
}

fn read(path: &Path) -> std::io::Result<Bytes> {
    std::fs::read(path).map(Bytes::from)
}

fn not_an_object(url: &str) -> ConfigError {
    ConfigError::Contradiction(format!("{url} names no object that firn writes"))
}

#[expect(clippy::print_stdout, reason = "the inspection is what was asked for")]
fn show(inspection: &Inspection) {
    print!("{inspection}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_cut_where_the_place_of_the_object_begins() {
        use firn_proto::ids::{Incarnation, Slot, StreamId, TopicId};
        use firn_storage::layout::{Place, SegmentName};
        let place = Place::WalSlot {
            stream: StreamId(7),
            slot: Slot(3),
        };
        let key = place.key();
        let cut = |url: String| {
            let (scheme, path) = url.split_once("://").unwrap();
            split(scheme, path).map(|(root, name)| (root, name.key()))
        };
        let url = format!("s3://b/deep/prefix/{}?region=r", key.as_str());
        assert_eq!(
            cut(url),
            Some(("s3://b/deep/prefix?region=r".to_owned(), key.clone()))
        );
        let url = format!("s3://b/{}", key.as_str());
        assert_eq!(cut(url), Some(("s3://b".to_owned(), key)));
        let segment = SegmentName {
            topic_name: "wal".to_owned(),
            topic: TopicId([7; 16]),
            incarnation: Incarnation(1),
            number: 2,
        };
        let key = segment.key();
        let url = format!("s3://b/tables/{}", key.as_str());
        assert_eq!(cut(url), Some(("s3://b/tables".to_owned(), key)));
        assert_eq!(cut("s3://b/something/else".to_owned()), None);
    }
}
