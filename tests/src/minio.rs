//! A real S3 server: MinIO, started on free ports, frozen and killed at will.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::node::NodePlan;
use crate::process::Process;
use crate::requirement::{cache_folder, program, skip};
use crate::{ports, wait};

/// User and password of the server.
const SECRET: &str = "minioadmin";
/// The bucket the tests use.
const BUCKET: &str = "firn-test";

/// The MinIO binary: `CI_FIRN_MINIO`, else where `.ci/run` puts it, else of the search path.
pub fn binary() -> Option<PathBuf> {
    std::env::var_os("CI_FIRN_MINIO")
        .map(PathBuf::from)
        .or_else(|| cache_folder().map(|folder| folder.join("bin/minio")))
        .filter(|path| path.is_file())
        .or_else(|| program("minio"))
}

/// A server for `test` below `folder`; without MinIO the test is skipped by name.
pub fn minio_for(test: &str, folder: &Path) -> Option<Minio> {
    let Some(binary) = binary() else {
        skip(test, "MinIO");
        return None;
    };
    Some(Minio::start(&binary, folder))
}

/// A running server with one empty bucket. Dropping it kills it.
#[derive(Debug)]
pub struct Minio {
    /// The process itself, for freezing.
    pub process: Process,
    binary: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
}

impl Minio {
    /// The name of its one bucket.
    pub const BUCKET: &str = BUCKET;
    /// User and password.
    pub const CREDENTIALS: (&str, &str) = (SECRET, SECRET);

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a server that keeps its objects below `folder`.
    pub fn start(binary: &Path, folder: &Path) -> Self {
        // A folder of the server's folder is a bucket to MinIO.
        fs::create_dir_all(folder.join("minio").join(BUCKET)).expect("a folder for the bucket");
        let address = ports::free();
        let minio = Self {
            process: launch(binary, folder, address),
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            address,
        };
        minio.wait_open();
        minio
    }

    /// Starts it again at the same address, over the same objects, after its process was killed.
    pub fn restart(&mut self) {
        self.process = launch(&self.binary, &self.folder, self.address);
        self.wait_open();
    }

    /// The bucket's URL with `prefix`, as `--bucket` takes it.
    pub fn url(&self, prefix: &str) -> String {
        url_at(self.address, prefix)
    }

    /// A broker on this server's bucket.
    pub fn node(&self, built: &str, folder: &Path, prefix: &str) -> NodePlan {
        Self::node_by(self.address, built, folder, prefix)
    }

    /// A broker that reaches this server at another address, by way of a proxy.
    pub fn node_by(address: SocketAddr, built: &str, folder: &Path, prefix: &str) -> NodePlan {
        NodePlan::on_bucket(built, folder, &url_at(address, prefix))
            .with_environment("AWS_ACCESS_KEY_ID", SECRET)
            .with_environment("AWS_SECRET_ACCESS_KEY", SECRET)
    }

    /// The last parts of the keys of all objects whose keys begin with these folders, as the server's
    /// files say: nobody is asked.
    pub fn names_below(&self, prefix: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.folder.join("minio").join(BUCKET).join(prefix)];
        while let Some(folder) = folders.pop() {
            // An object is a folder with one file of that name in it; it may go meanwhile.
            if folder.join("xl.meta").is_file() {
                let name = folder.file_name().expect("an object has a name");
                names.push(name.to_string_lossy().into_owned());
                continue;
            }
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            folders.extend(entries.map(|entry| entry.path()));
        }
        names
    }

    fn wait_open(&self) {
        wait::until("MinIO to serve", wait::PATIENCE, || {
            let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
            stream.is_ok().then_some(())
        });
    }
}

fn url_at(address: SocketAddr, prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}?endpoint=http://{address}&region=us-east-1&path_style=true")
}

fn launch(binary: &Path, folder: &Path, address: SocketAddr) -> Process {
    let mut command = Command::new(binary);
    command
        .args(["server", "--quiet", "--address", &address.to_string()])
        // Nobody looks at it: any port that is free at that moment.
        .args(["--console-address", "127.0.0.1:0"])
        .arg(folder.join("minio"))
        .env("MINIO_ROOT_USER", SECRET)
        .env("MINIO_ROOT_PASSWORD", SECRET);
    Process::spawn("minio", command, &folder.join("minio.log"))
}
