//! The whole daemon: starts everything in order, and stops it in the other.
//!
//! What may fail fails early: locks, inventory, sockets. Then the lab is
//! taken over, machines are listened to, and only when the decision loop runs
//! are people served.

use super::agents::{self, Agents, Limits};
use super::boot;
use super::consoles::{self, Consoles};
use super::drain;
use super::hands::{LabHands, Places, Rigs};
use super::lock::{Lock, LockError};
use super::port::{self, PortError};
use super::spare::{self, Spare};
use super::tls::{self, TlsError};
use super::{Desk, Halt, StartError, open};
use crate::api::{
    App, BACKUP_PREFIX, InventorySource, ListenError, Listener, Metrics, router, select::KnownCache,
};
use crate::store::{SqliteStore, Store as _, StoreError};
use pitstop_core::Lab;
use pitstop_core::inventory::{Inventory, InventoryErrors, MachineSpec};
use pitstop_core::machine::Stage;
use pitstop_drivers::factories;
use pitstop_image::{Digest, ImageStore};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it keeps its things.
    pub data: PathBuf,
    /// What exists in the lab.
    pub inventory: PathBuf,
    /// Where people's tools connect to.
    pub socket: PathBuf,
    /// Whether simulated machines are allowed.
    pub simulated: bool,
    /// Address that machines reach the daemon by.
    pub address: IpAddr,
    /// Port for machines; `None`: any free one, the same at every start.
    pub port: Option<u16>,
    /// Port for boot files; as above.
    pub boot_port: Option<u16>,
    /// The `pitstop` program, which simulated machines are parts of.
    pub program: PathBuf,
}

/// Why a daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon is there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The inventory has errors.
    #[error("{0}")]
    Inventory(#[from] InventoryErrors),
    /// Simulated machines were not asked for.
    #[error("machine {0} is simulated; start with --simulated if that is meant")]
    Simulated(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lab could not be taken over.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It was asked to end, and something would not.
    #[error(
        "the daemon did not come to an end within {} s, most likely for a database that does not take its last \
         commits; it stops all the same: whoever got an answer has it in the database, others are told to ask again",
        drain::LIMIT.as_secs()
    )]
    Stuck,
    /// The loop ended by itself.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The lab's CA.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The images.
    #[error(transparent)]
    Images(#[from] pitstop_image::StoreError),
    /// People's socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Machines cannot be listened to.
    #[error(transparent)]
    Machines(#[from] PortError),
    /// A file of the data directory.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// What a daemon that serves says of itself.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The lab's name.
    pub lab: String,
    /// How many machines it has.
    pub machines: usize,
    /// Where machines connect to.
    pub listens: SocketAddr,
}

/// Serves until `stop`. `ready` is told once people are served.
///
/// # Errors
/// [`ServeError`]
pub async fn serve(
    options: Options,
    stop: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<(), ServeError> {
    let _data = Lock::data(&options.data)?;
    remove_half_copies(&options.data);
    let inventory = Arc::new(Inventory::load(&options.inventory, factories())?);
    check_simulated(&inventory, options.simulated)?;
    let file = Lock::inventory(&options.inventory)?;
    let people = Listener::bind(&options.socket).await?;
    let spare =
        Spare::keep(spare::KEPT).map_err(|source| ServeError::File { path: "/dev/null".into(), source })?;
    let identity = tls::load_or_make(&options.data.join("ca"))?;
    let (machines, listens) =
        port::listen(&options.data, "machines.port", options.address, options.port).await?;
    let images = Arc::new(ImageStore::open(&options.data.join("images"))?);

    let store = Box::new(SqliteStore::open(&options.data)?);
    if store.past().is_some() {
        tracing::warn!(
            "the database is a backup's, or has lost commits: every reservation has ended, nothing is known of any \
             disk until it is proven again, and nothing was switched"
        );
    }
    let enrol = inventory.machines.values().all(is_simulated);
    let opened = open_blocking(store, Arc::clone(&inventory), enrol).await?;
    sweep(&images, opened.lab());
    let desk = opened.desk();

    let (boot_files, boot_at) =
        port::listen(&options.data, "boot.port", options.address, options.boot_port).await?;
    let rigs = Arc::new(Rigs::new(places(&options, listens, boot_at.port(), identity.fingerprint.clone())));
    rigs.load(factories(), &inventory);
    let lines = Consoles::start(&options.data.join("console"), desk.clock())
        .map_err(|source| ServeError::File { path: options.data.join("console"), source })?;
    lines.load(&rigs);
    lines.know(opened.lab(), None);
    tokio::spawn(consoles::follow(lines.clone(), &desk));
    let progress = broadcast::Sender::new(256);
    let front: Arc<dyn super::hands::Front> = Arc::new(desk.clone());
    let agents = Agents::new(Arc::clone(&front), Arc::clone(&images), progress.clone());
    let hands = LabHands::new(Arc::clone(&front), agents.clone(), Arc::new(lines.clone()), Arc::clone(&rigs));
    let boot_asks = Arc::<boot::Asks>::default();
    let asks = Arc::clone(&boot_asks);
    let serving = boot::serve(front, Arc::clone(&rigs), agents.clone(), asks, boot_files, Arc::clone(&spare));
    let boot_task = tokio::spawn(serving);
    let agents_task = tokio::spawn(agents::serve(
        agents.clone(),
        machines,
        identity.server,
        Limits::default(),
        Arc::clone(&spare),
    ));
    let examiner = Arc::new(hands.clone());
    let running = opened.run(Box::new(hands))?;

    let all_rigs = Arc::clone(&rigs);
    let source = Source { options: options.clone(), rigs, lock: Mutex::new(file) };
    let newest = desk.snapshot().await.map_or(0, |lab| lab.meta().records);
    let closing = CancellationToken::new();
    let app = App {
        desk: desk.clone(),
        runs: Arc::new(agents),
        examiner,
        boot_asks,
        consoles: lines.clone(),
        images,
        inventory: Arc::new(source),
        known: KnownCache::default(),
        progress,
        metrics: Metrics::after(newest),
        closing: closing.clone(),
        data: options.data.clone(),
    };
    let api = tokio::spawn(people.serve(router(Arc::new(app)), closing.clone(), spare));
    // Nobody may be waiting for it.
    let _ =
        ready.send(Ready { lab: inventory.lab.name.clone(), machines: inventory.machines.len(), listens });
    let ended = until_over(running, &desk, &stop, api, &closing).await;
    // Agents come back to the next daemon.
    agents_task.abort();
    boot_task.abort();
    lines.flush();
    // Lines are kept open, and their machines there, by tasks that would
    // outlive us in a process that goes on.
    all_rigs.load(factories(), &Inventory::default());
    lines.load(&all_rigs);
    ended
}

/// Until told to stop and everything has ended in order, or the loop ends by
/// itself.
async fn until_over(
    running: super::Running,
    desk: &Desk,
    stop: &CancellationToken,
    api: JoinHandle<()>,
    closing: &CancellationToken,
) -> Result<(), ServeError> {
    let ended = running.ended();
    tokio::pin!(ended);
    tokio::select! {
        ended = &mut ended => {
            hang_up(api, closing).await;
            return Ok(ended?);
        }
        () = stop.cancelled() => tracing::info!("asked to stop: nothing is granted any more"),
    }
    let in_order = async {
        drain::drain(desk).await;
        hang_up(api, closing).await;
        // Only now: answers that were under way came from it.
        desk.stop();
        ended.await
    };
    match tokio::time::timeout(drain::LIMIT, in_order).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(ServeError::Stuck),
    }
}

/// Takes no more requests, ends streams, and gives the answers under way.
async fn hang_up(api: JoinHandle<()>, closing: &CancellationToken) {
    closing.cancel();
    if let Err(error) = api.await {
        tracing::warn!(%error, "the API did not end well");
    }
}

/// The loop's first commit waits for the disk.
async fn open_blocking(
    store: Box<SqliteStore>,
    inventory: Arc<Inventory>,
    enrol: bool,
) -> Result<super::Opened, StartError> {
    match tokio::task::spawn_blocking(move || open(store, inventory, enrol)).await {
        Ok(opened) => opened,
        Err(_) => Err(StartError::Halt(Halt::Died)),
    }
}

/// Backups that a daemon was making when it was killed.
fn remove_half_copies(data: &Path) {
    let Ok(entries) = std::fs::read_dir(data) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(BACKUP_PREFIX)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "half a backup cannot be removed");
        }
    }
}

fn places(options: &Options, listens: SocketAddr, boot_port: u16, ca: String) -> Places {
    Places {
        machines: options.data.join("machines"),
        agent: options.data.join("agent"),
        program: options.program.clone(),
        address: options.address.to_string(),
        agents_port: listens.port(),
        boot_port: Some(boot_port),
        ca,
    }
}

fn check_simulated(inventory: &Inventory, allowed: bool) -> Result<(), ServeError> {
    match inventory.machines.values().find(|m| !allowed && uses_simulation(m)) {
        Some(machine) => Err(ServeError::Simulated(machine.name.to_string())),
        None => Ok(()),
    }
}

fn uses_simulation(spec: &MachineSpec) -> bool {
    spec.legs.iter().any(|leg| leg.driver.driver == "sim")
        || spec.boot.driver == "sim"
        || spec.consoles.values().any(|c| c.driver == "sim")
}

/// Nothing of it is real: no person need say that its disks may be erased.
fn is_simulated(spec: &MachineSpec) -> bool {
    !spec.legs.is_empty()
        && spec.legs.iter().all(|leg| leg.driver.driver == "sim")
        && spec.boot.driver == "sim"
        && spec.consoles.values().all(|c| c.driver == "sim")
}

/// Removes the bytes of images that nothing names any more.
fn sweep(images: &ImageStore, lab: &Lab) {
    let mut used: BTreeSet<String> = lab.images().map(|i| i.image.digest.clone()).collect();
    used.extend(lab.reservations().filter_map(|r| r.ask.image.as_ref()).map(|i| i.digest.clone()));
    used.extend(
        lab.machines()
            .filter_map(|m| match &m.stage {
                Stage::Turn(turn) => turn.image.as_ref(),
                Stage::Ready { image, .. } | Stage::InUse { image, .. } => image.as_ref(),
                Stage::Free => None,
            })
            .map(|i| i.digest.clone()),
    );
    match images.sweep(&|digest: &Digest| used.contains(&digest.to_string())) {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(images = gone.len(), "images that nothing names were removed"),
        // Bytes too many are no reason not to serve.
        Err(error) => tracing::warn!(%error, "old images cannot be removed"),
    }
}

/// The inventory on disk, and what is made from it.
struct Source {
    options: Options,
    rigs: Arc<Rigs>,
    lock: Mutex<Lock>,
}

impl InventorySource for Source {
    fn read(&self) -> Result<Inventory, String> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.follow().map_err(|e| e.to_string())?;
        let inventory = Inventory::load(&self.options.inventory, factories()).map_err(|e| e.to_string())?;
        check_simulated(&inventory, self.options.simulated).map_err(|e| e.to_string())?;
        self.rigs.check(factories(), &inventory)?;
        Ok(inventory)
    }
}
