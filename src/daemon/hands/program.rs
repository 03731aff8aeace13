//! Programs of the lab's that run for a machine: hooks, and what writes and
//! reads back the flash of a board. One at a time for each machine; one that
//! nobody waits for any more is ended.

use super::{Inner, Rig};
use pitstop_core::effect::{Effect, Fill};
use pitstop_core::event::{Fact, ProgramTrouble, ReadBack};
use pitstop_core::id::{Epoch, IntentId};
use pitstop_core::inventory::{DriverSpec, MachineSpec, Point};
use pitstop_core::time::LabTime;
use pitstop_drivers::DriverError;
use pitstop_drivers::host::{Hear, Open};
use pitstop_drivers::program::{HookProgram, Trouble};
use pitstop_image::{Comparison, Difference, Digest, ImageStore, RawImage, StoredImage};
use pitstop_wire::MachineName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The programs that run now.
#[derive(Default)]
pub(super) struct Programs(Mutex<HashMap<MachineName, Run>>);

/// One of them. Dropped, it is ended.
struct Run {
    intent: IntentId,
    /// Why it is ended from outside.
    end: oneshot::Sender<End>,
    /// What the inventory said of it when it was begun.
    said: Said,
}

/// What a program is by the inventory: where that changes, it is another one.
type Said = Option<DriverSpec>;

enum End {
    /// The core waits for it no more.
    Stopped,
    /// The inventory says otherwise.
    Changed,
}

/// What is to be run.
enum Task {
    Hook { point: Point, hook: String, fill: Fill },
    Flash { image: String, write: bool },
}

struct Order {
    machine: MachineName,
    intent: IntentId,
    nonce: String,
    until: LabTime,
    task: Task,
}

/// How it ended.
enum Outcome {
    Hook(Result<(), Fault>),
    Flash(Result<Option<ReadBack>, Fault>),
}

/// What went wrong, whose fault it is, and whether it is over.
struct Fault {
    lab: bool,
    over: bool,
    text: String,
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Self { lab: trouble.lab, over: trouble.over, text: trouble.error.to_string() }
    }
}

impl Fault {
    fn lab(text: impl ToString) -> Self {
        Self { lab: true, over: true, text: text.to_string() }
    }

    fn machine(over: bool, text: impl ToString) -> Self {
        Self { lab: false, over, text: text.to_string() }
    }
}

fn said(spec: &MachineSpec, task: &Task) -> Said {
    match task {
        Task::Hook { point, hook, .. } => {
            let hooks = spec.hooks.get(point)?;
            hooks.iter().find(|h| h.name == *hook).map(|h| h.command.clone())
        }
        Task::Flash { .. } => spec.programmer().cloned(),
    }
}

impl Programs {
    fn all(&self) -> MutexGuard<'_, HashMap<MachineName, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what runs under a name that left the inventory, or that is another
    /// program there now.
    pub fn follow(&self, spec: impl Fn(&MachineName) -> Option<Arc<Rig>>) {
        let mut all = self.all();
        let stays = |name: &MachineName, run: &Run| {
            let Some(rig) = spec(name) else { return false };
            let commands = rig.spec.hooks.values().flatten().map(|h| &h.command);
            run.said.as_ref().is_some_and(|said| commands.chain(rig.spec.programmer()).any(|c| c == said))
        };
        let gone: Vec<MachineName> =
            all.iter().filter(|(name, run)| !stays(name, run)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(run) = all.remove(&name) {
                // It may have ended just now.
                let _ = run.end.send(End::Changed);
            }
        }
    }

    fn stop(&self, machine: &MachineName, intent: IntentId) {
        let mut all = self.all();
        if all.get(machine).is_some_and(|run| run.intent == intent)
            && let Some(run) = all.remove(machine)
        {
            let _ = run.end.send(End::Stopped);
        }
    }

    fn is_over(&self, machine: &MachineName, intent: IntentId) {
        let mut all = self.all();
        if all.get(machine).is_some_and(|run| run.intent == intent) {
            all.remove(machine);
        }
    }
}

impl Inner {
    /// A program is to be begun, or to be ended.
    pub(super) fn program(self: &Arc<Self>, effect: Effect, epoch: Epoch) {
        let order = match effect {
            Effect::Hook { machine, intent, nonce, point, hook, fill, until } => {
                Order { machine, intent, nonce, until, task: Task::Hook { point, hook, fill } }
            }
            Effect::Program { machine, intent, nonce, image, write, until } => {
                Order { machine, intent, nonce, until, task: Task::Flash { image, write } }
            }
            Effect::Stop { machine, intent } => return self.programs.stop(&machine, intent),
            _ => return,
        };
        let rig = self.rigs.get(&order.machine);
        let said = rig.as_ref().and_then(|rig| said(&rig.spec, &order.task));
        let (end, ended) = oneshot::channel();
        // What ran for it before is ended by this: its end is dropped.
        self.programs.all().insert(order.machine.clone(), Run { intent: order.intent, end, said });
        let inner = self.clone();
        self.runtime.spawn(async move {
            if let Some(fact) = inner.carry_out(&order, rig, ended).await {
                inner.front.fact(epoch, fact);
            }
            inner.programs.is_over(&order.machine, order.intent);
        });
    }

    /// Runs it until it ends, its time does, or it is ended.
    async fn carry_out(
        &self,
        order: &Order,
        rig: Option<Arc<Rig>>,
        ended: oneshot::Receiver<End>,
    ) -> Option<Fact> {
        let Order { machine, intent, .. } = order;
        let Some(rig) = rig else {
            return Some(order.fact(Fault::machine(true, format!("{machine} is not in the inventory"))));
        };
        let here = rig.is_here(&order.task);
        let left = Duration::from_millis(order.until - self.front.now());
        let outcome = {
            let running = self.run(order, &rig);
            tokio::select! {
                outcome = tokio::time::timeout(left, running) => Ok(outcome),
                end = ended => Err(end.unwrap_or(End::Stopped)),
            }
        };
        // Whatever ran is dropped by now, and ended with that.
        match outcome {
            Ok(Ok(outcome)) => Some(order.ended(outcome)),
            Ok(Err(_)) => {
                let text = format!("not done within {:.1} s; it was ended", left.as_secs_f32());
                Some(order.fact(Fault::machine(here, text)))
            }
            Err(End::Stopped) => here.then(|| Fact::Gone { machine: machine.clone(), intent: *intent }),
            Err(End::Changed) => {
                let text = "the inventory says otherwise since it was begun; it was ended";
                Some(order.fact(Fault::machine(here, text)))
            }
        }
    }

    async fn run(&self, order: &Order, rig: &Rig) -> Outcome {
        let images = self.agents.images();
        match &order.task {
            Task::Hook { point, hook, fill } => {
                let program = rig.hook(*point, hook);
                Outcome::Hook(run_hook(order, program, &images, fill).await)
            }
            Task::Flash { image, write } => Outcome::Flash(flash(order, rig, &images, image, *write).await),
        }
    }
}

impl Order {
    /// What is reported where it came to no end.
    fn fact(&self, trouble: Fault) -> Fact {
        self.ended(match self.task {
            Task::Hook { .. } => Outcome::Hook(Err(trouble)),
            Task::Flash { .. } => Outcome::Flash(Err(trouble)),
        })
    }

    fn ended(&self, outcome: Outcome) -> Fact {
        let (machine, intent, nonce) = (self.machine.clone(), self.intent, self.nonce.clone());
        match outcome {
            Outcome::Hook(result) => {
                let over = result.as_ref().map_or_else(|t| t.over, |()| true);
                let result = result.map_err(|t| ProgramTrouble { lab: t.lab, text: t.text });
                if let Err(error) = &result {
                    tracing::info!(%machine, "{}", error.text);
                }
                Fact::Hooked { machine, intent, nonce, over, result }
            }
            Outcome::Flash(result) => {
                let over = result.as_ref().map_or_else(|t| t.over, |_| true);
                let result = result.map_err(|t| ProgramTrouble { lab: t.lab, text: t.text });
                if let Err(error) = &result {
                    tracing::info!(%machine, "{}", error.text);
                }
                Fact::Programmed { machine, intent, nonce, over, result }
            }
        }
    }
}

impl Rig {
    /// Whether what is run is known to be gone when nobody waits for it.
    fn is_here(&self, task: &Task) -> bool {
        match task {
            Task::Hook { point, hook, .. } => {
                self.hook(*point, hook).and_then(Result::ok).is_none_or(|hook| hook.is_here())
            }
            Task::Flash { .. } => self.programmer().and_then(Result::ok).is_none_or(|p| p.is_here()),
        }
    }
}

async fn run_hook(
    order: &Order,
    program: Option<Result<&Arc<HookProgram>, &DriverError>>,
    images: &Arc<ImageStore>,
    fill: &Fill,
) -> Result<(), Fault> {
    let program = program.ok_or_else(|| Fault::lab("it has no such hook any more"))?;
    let program = program.map_err(Fault::lab)?;
    let mut files = Vec::new();
    for (place, digest) in &fill.files {
        let (bytes, open) = raw(stored(images, digest.clone()).await?);
        files.push((place.clone(), bytes, open));
    }
    Ok(program.run(&order.nonce, &fill.words, files).await?)
}

/// Writes a board and reads it back, or only the second.
async fn flash(
    order: &Order,
    rig: &Rig,
    images: &Arc<ImageStore>,
    digest: &str,
    write: bool,
) -> Result<Option<ReadBack>, Fault> {
    let programmer = rig.programmer().ok_or_else(|| Fault::lab("nothing writes it any more"))?;
    let programmer = programmer.map_err(Fault::lab)?;
    let image = stored(images, digest.to_owned()).await?;
    if write {
        let (bytes, open) = raw(image.clone());
        programmer.write(&order.nonce, bytes, open).await?;
    }
    let Some(by) = programmer.reader() else { return Ok(None) };
    let ear = Arc::new(Mutex::new(Ear(Some(Comparison::new(image).map_err(Fault::lab)?))));
    programmer.read_back(ear.clone()).await?;
    let compared = ear.lock().unwrap_or_else(PoisonError::into_inner).0.take();
    match compared.map(Comparison::end) {
        Some(Ok((image_bytes, read_bytes))) => Ok(Some(ReadBack { by, image_bytes, read_bytes })),
        // Nobody knows whether it differs.
        Some(Err(error @ Difference::Image(_))) => Err(Fault::lab(error)),
        Some(Err(error)) => Err(Fault::machine(true, format!("{by}: {error}"))),
        None => Err(Fault::lab("nothing was compared")),
    }
}

struct Ear(Option<Comparison>);

impl Hear for Ear {
    fn hear(&mut self, bytes: &[u8]) {
        if let Some(comparison) = &mut self.0 {
            comparison.add(bytes);
        }
    }
}

async fn stored(images: &Arc<ImageStore>, digest: String) -> Result<Arc<StoredImage>, Fault> {
    let images = images.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let digest: Digest = digest.parse().map_err(|e| format!("image {digest}: {e}"))?;
        images.open_image(&digest).map_err(|e| e.to_string())
    });
    // Whatever it is, it is the daemon's own disk.
    opening.await.map_err(Fault::lab)?.map_err(Fault::lab)
}

/// An image as a file to be brought along.
fn raw(image: Arc<StoredImage>) -> (u64, Open) {
    let bytes = image.map().size();
    let open: Open = Arc::new(move || {
        let raw = RawImage::new(image.clone()).map_err(std::io::Error::other)?;
        Ok(Box::new(raw))
    });
    (bytes, open)
}
