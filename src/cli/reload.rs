//! Looks for changed definitions while `tidegate dev` runs, says what changed and whether what is stored
//! still fits, and lets a node be replaced only by definitions that it could be started with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate_engine::machine::{CompiledMachine, Processor, differences};
use tidegate_engine::store::StateStore;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::ingest::together;
use super::output::grouped;
use crate::machines;

/// How often the files are looked at: between saving one and looking for an effect.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// What the files of one round become, once they are another set of definitions that can be used.
pub(super) struct Reload {
    next: Arc<Mutex<Option<Machines>>>,
    changed: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
}

type Machines = Vec<Arc<CompiledMachine>>;

/// Path, moment of the last change, and length of each file.
type Stamps = Vec<(PathBuf, Option<SystemTime>, u64)>;

impl Reload {
    /// Looks from now on, until its end or the first change that can be used.
    pub fn watch(
        paths: Vec<PathBuf>,
        own: Vec<Arc<dyn Processor>>,
        loaded: Machines,
        store: Arc<dyn StateStore>,
        io: &Handle,
    ) -> Self {
        let next = Arc::new(Mutex::new(None));
        let (tell, changed) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let looking = Looking {
            paths,
            own,
            loaded,
            store,
        };
        let found = next.clone();
        // A task of its own, so that a question to the store is never dropped halfway.
        io.spawn(async move {
            if let Some(machines) = looking.until_changed(stopped).await {
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(machines);
                let _ = tell.send(true);
            }
        });
        Self {
            next,
            changed,
            stop,
        }
    }

    /// Ends when there is something to be replaced by.
    pub fn changed(&self) -> BoxFuture<'static, ()> {
        let mut changed = self.changed.clone();
        async move {
            if changed.wait_for(|changed| *changed).await.is_err() {
                // Nobody looks any more, so nothing changes.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    /// Looks no more. What was found, if anything.
    pub fn end(self) -> Option<Machines> {
        let _ = self.stop.send(true);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take()
    }
}

struct Looking {
    paths: Vec<PathBuf>,
    own: Vec<Arc<dyn Processor>>,
    loaded: Machines,
    store: Arc<dyn StateStore>,
}

impl Looking {
    async fn until_changed(self, stopped: watch::Receiver<bool>) -> Option<Machines> {
        // The first look judges what is there: it may have changed between the reading of these
        // definitions and now.
        let mut judged = None;
        let mut before = stamps(&self.paths);
        while !*stopped.borrow() {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = stamps(&self.paths);
            // An editor may write a file in several steps: it is read once it is left alone.
            let is_left_alone = now == before;
            before.clone_from(&now);
            if !is_left_alone || judged.as_ref() == Some(&now) {
                continue;
            }
            judged = Some(now);
            match self.judge().await {
                Ok(None) => {}
                Ok(Some(machines)) => return Some(machines),
                Err(why) => crate::say!(
                    "\n  The changed definitions cannot be used; those before stay in force:\n{}\n",
                    indented(&why)
                ),
            }
        }
        None
    }

    /// What the files are now, when that is something else and can be used.
    async fn judge(&self) -> Result<Option<Machines>, String> {
        let loaded = machines::load(&self.paths).map_err(|error| error.to_string())?;
        if loaded.is_empty() {
            return Err("no definition is left".to_owned());
        }
        let hashes = |machines: &Machines| -> Vec<_> {
            let each = machines.iter();
            each.map(|machine| machine.definition().hash).collect()
        };
        if hashes(&loaded) == hashes(&self.loaded) {
            return Ok(None);
        }
        let given =
            together(loaded.clone(), &self.own).map_err(|failure| failure.message.clone())?;
        let compared = machines::compare(self.store.as_ref(), &given).await;
        for may in compared.map_err(|error| error.to_string())? {
            may.map_err(|refused| refused.to_string())?;
        }
        let mut told = String::new();
        for machine in &loaded {
            told.push_str(&self.tell(machine).await);
        }
        for gone in &self.loaded {
            let name = &gone.definition().machine;
            if !loaded.iter().any(|it| it.definition().machine == *name) {
                told.push_str(&format!(
                    "\n  {name}: its file is gone; what is stored of it stays in force\n"
                ));
            }
        }
        crate::say!("{told}");
        Ok(Some(loaded))
    }

    /// What changed in one machine, and what is stored of it.
    async fn tell(&self, machine: &CompiledMachine) -> String {
        let definition = machine.definition();
        let name = &definition.machine;
        let mut loaded = self.loaded.iter();
        let Some(before) = loaded.find(|it| it.definition().machine == *name) else {
            return format!("\n  {name}: new, version {}\n", definition.version);
        };
        if before.definition().hash == definition.hash {
            return String::new();
        }
        let mut told = format!(
            "\n  {name}: version {} → {}\n",
            before.definition().version,
            definition.version
        );
        let lines = differences(before, machine);
        for line in &lines {
            told.push_str(&format!("    {line}\n"));
        }
        if lines.is_empty() {
            told.push_str("    only expressions, tests or comments differ\n");
        }
        if let Ok(entities) = self.store.entities_by_status(name).await {
            let entities: u64 = entities.iter().map(|(_, count)| *count).sum();
            told.push_str(&match entities {
                0 => "    nothing of it is stored yet\n".to_owned(),
                1 => "    1 entity is stored, and fits\n".to_owned(),
                many => format!("    {} entities are stored, and all fit\n", grouped(many)),
            });
        }
        told
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// What can be told of the files without reading them. What is not there has none.
fn stamps(paths: &[PathBuf]) -> Stamps {
    let files = machines::files(paths).unwrap_or_default();
    files.into_iter().map(|path| stamp(&path)).collect()
}

fn stamp(path: &Path) -> (PathBuf, Option<SystemTime>, u64) {
    let metadata = path.metadata().ok();
    let modified = metadata.as_ref().and_then(|it| it.modified().ok());
    let length = metadata.map_or(0, |it| it.len());
    (path.to_owned(), modified, length)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_engine::machine::Processor as _;

    use super::Reload;
    use crate::config::Store;
    use crate::machines;
    use crate::stores::{self, WhenAbsent};

    fn order(version: u32, total: &str) -> String {
        format!(
            "apiVersion: tidegate/v1\nkind: Machine\nmachine: order\nversion: {version}\nkey: event.subject\n\
             initial: new\nstates: [new]\ndata:\n  total: {{ type: int, initial: 0 }}\nevents:\n  placed:\n    \
             - from: [new]\n      set: {{ total: {total} }}\n"
        )
    }

    /// The node takes a while to be replaced; who saves a file meanwhile must not have to save it again.
    #[tokio::test]
    async fn what_was_saved_before_the_first_look_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("order.yaml");
        let mut section = Store::default();
        section.sqlite.path = directory.path().join("tidegate.db");
        let opened = stores::open(&section, WhenAbsent::Create).await.unwrap();
        std::fs::write(&file, order(1, "1")).unwrap();
        let loaded = machines::load(std::slice::from_ref(&file)).unwrap();
        std::fs::write(&file, order(2, "2")).unwrap();
        let io = tokio::runtime::Handle::current();
        let reload = Reload::watch(vec![file], Vec::new(), loaded, opened.shared(), &io);
        let changed = tokio::time::timeout(Duration::from_secs(30), reload.changed()).await;
        changed.expect("the change is seen");
        let next = reload.end().expect("what it became");
        assert_eq!(next[0].definition().version, 2);
        opened.close().await.unwrap();
    }
}
