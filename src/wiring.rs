//! Opens sources. The only module of the node that names concrete buses, and it hands out none:
//! everything else knows the `EventBus` seam. The concrete stores are named in [`crate::stores`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_connectors::bus::file::{FileBus, FileInput};
use tidegate_engine::bus::{BusError, EventBus};
use tidegate_engine::position::SourceName;

/// Files that are read as one source.
#[derive(Clone)]
pub struct Files(Arc<FileBus>);

/// How far files are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FilesProgress {
    /// Bytes below the acknowledged low watermarks.
    pub acknowledged_bytes: u64,
    /// Bytes in all; `None` while one of them is a stream that has not ended.
    pub total_bytes: Option<u64>,
}

impl Files {
    /// Opens them in this order, which numbers their source partitions. `-` is standard input.
    pub async fn open(name: SourceName, paths: &[PathBuf]) -> Result<Self, BusError> {
        let inputs = paths.iter().map(|path| input(path)).collect();
        Ok(Self(Arc::new(FileBus::open(name, inputs).await?)))
    }

    /// Their bus behind its seam.
    pub fn bus(&self) -> Arc<dyn EventBus> {
        self.0.clone()
    }

    /// How far all of them are.
    pub fn progress(&self) -> FilesProgress {
        let files = self.0.progress();
        FilesProgress {
            acknowledged_bytes: files.iter().map(|file| file.acknowledged_bytes).sum(),
            total_bytes: files.iter().map(|file| file.total_bytes).sum(),
        }
    }
}

fn input(path: &Path) -> FileInput {
    if path.as_os_str() == "-" {
        FileInput::StandardInput
    } else {
        FileInput::Path(path.to_owned())
    }
}
