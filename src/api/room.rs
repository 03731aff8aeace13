//! Places for connections. Whoever has nothing to say makes room for whoever
//! comes: thousands of silent connections must not keep a session from
//! beating.

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A number of places.
pub struct Room {
    places: Arc<Semaphore>,
    quiet: Mutex<Quiet>,
    /// A connection became quiet.
    calmer: Notify,
    /// A connection is closed.
    left: Notify,
}

/// Connections without a request, the longest quiet first.
#[derive(Default)]
struct Quiet {
    since: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// A connection in the room. Its place is free once it is dropped.
pub struct Guest {
    seat: Arc<Seat>,
    _place: OwnedSemaphorePermit,
}

struct Seat {
    room: Arc<Room>,
    leave: CancellationToken,
    state: Mutex<State>,
}

/// Requests under way; without any, its entry among the quiet ones.
#[derive(Default)]
struct State {
    busy: usize,
    entry: Option<u64>,
}

/// A request under way.
pub struct Busy(Arc<Seat>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    /// So many places.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places)),
            quiet: Mutex::default(),
            calmer: Notify::new(),
            left: Notify::new(),
        })
    }

    /// A place. Where there is none, whoever was quiet for longest is asked to
    /// leave; where all have requests under way, one of them is waited for.
    pub async fn enter(self: &Arc<Self>) -> Option<Guest> {
        loop {
            // From here on nobody becomes quiet unheard.
            let calmer = self.calmer.notified();
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return Some(self.seat(place));
            }
            self.show_out();
            tokio::select! {
                place = Arc::clone(&self.places).acquire_owned() => return Some(self.seat(place.ok()?)),
                () = calmer => {}
            }
        }
    }

    fn seat(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Guest {
        let seat = Seat { room: Arc::clone(self), leave: CancellationToken::new(), state: Mutex::default() };
        seat.rest(&mut lock(&seat.state));
        Guest { seat: Arc::new(seat), _place: place }
    }

    /// Asks whoever was quiet for longest to leave, if there is anybody, and
    /// waits until somebody left, or for so long.
    pub async fn part_with_one(&self, longest: Duration) {
        let left = self.left.notified();
        tokio::pin!(left);
        left.as_mut().enable();
        self.show_out();
        // Nobody left: whoever called looks again anyway.
        let _ = tokio::time::timeout(longest, left).await;
    }

    fn show_out(&self) {
        if let Some((_, leave)) = lock(&self.quiet).since.pop_first() {
            leave.cancel();
        }
    }
}

impl Guest {
    /// Ready when it is asked to leave.
    pub fn leave(&self) -> CancellationToken {
        self.seat.leave.clone()
    }

    /// Ready when it was asked to leave, had its time, and has no request.
    pub async fn lingers(&self, time: Duration) {
        while {
            tokio::time::sleep(time).await;
            lock(&self.seat.state).busy > 0
        } {}
    }

    /// What its requests say when they begin.
    pub fn begins(&self) -> impl Fn() -> Busy + Clone + Send + 'static {
        let seat = Arc::clone(&self.seat);
        move || {
            seat.begin();
            Busy(Arc::clone(&seat))
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.seat.wake(&mut lock(&self.seat.state));
        self.seat.room.left.notify_waiters();
    }
}

impl Seat {
    fn begin(&self) {
        let mut state = lock(&self.state);
        state.busy += 1;
        self.wake(&mut state);
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        state.busy -= 1;
        if state.busy == 0 {
            self.rest(&mut state);
        }
    }

    fn rest(&self, state: &mut State) {
        let mut quiet = lock(&self.room.quiet);
        let entry = quiet.next;
        quiet.next += 1;
        quiet.since.insert(entry, self.leave.clone());
        state.entry = Some(entry);
        self.room.calmer.notify_waiters();
    }

    fn wake(&self, state: &mut State) {
        if let Some(entry) = state.entry.take() {
            lock(&self.room.quiet).since.remove(&entry);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A body that counts as a request under way until it is sent: the event
/// stream, for one, is answered at once and goes on for hours.
struct Sending {
    body: Body,
    _busy: Busy,
}

impl Busy {
    /// The request is under way until this is sent, or nobody wants it.
    pub fn until_sent(self, body: Body) -> Body {
        Body::new(Sending { body, _busy: self })
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest as a connection keeps it: gone once it is asked to leave.
    fn connection(guest: Guest) {
        tokio::spawn(async move { guest.leave().cancelled().await });
    }

    async fn enters(room: &Arc<Room>) -> Guest {
        let entered = tokio::time::timeout(Duration::from_secs(10), room.enter());
        entered.await.expect("nobody makes room").unwrap()
    }

    #[tokio::test]
    async fn the_longest_quiet_connection_makes_room_and_the_busy_one_stays() {
        let room = Room::new(3);
        let (works, first, second) = (enters(&room).await, enters(&room).await, enters(&room).await);
        let under_way = works.begins()();
        let (stays, leaves, later) = (works.leave(), first.leave(), second.leave());
        connection(works);
        connection(first);
        connection(second);
        let newcomer = enters(&room).await;
        assert!(leaves.is_cancelled() && !later.is_cancelled() && !stays.is_cancelled());
        let newer = newcomer.begins()();
        connection(newcomer);
        let _third = enters(&room).await;
        assert!(later.is_cancelled() && !stays.is_cancelled());
        drop((under_way, newer));
    }

    #[tokio::test]
    async fn where_all_are_busy_the_first_one_that_is_done_makes_room() {
        let room = Room::new(1);
        let works = enters(&room).await;
        let body = works.begins()().until_sent(Body::from("a long answer"));
        let stays = works.leave();
        connection(works);
        let waits = tokio::spawn({
            let room = Arc::clone(&room);
            async move { enters(&room).await }
        });
        let early = tokio::time::timeout(Duration::from_millis(50), stays.cancelled()).await;
        assert!(early.is_err(), "a request under way was cut off");
        drop(body);
        waits.await.unwrap();
        assert!(stays.is_cancelled());
    }
}
