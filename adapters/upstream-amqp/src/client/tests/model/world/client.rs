//! What the client's holders do, and what that comes to.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Act, CHANNEL_MAX, Came, ClientError, Half, Incoming, Job, Link, World, book, pick};
use crate::client::handle::{Receiver, Session};
use crate::client::session::{SessionEvent, Verdict};
use crate::client::state::State;
use crate::client::tests::Task;
use crate::client::tests::hub::spec;
use crate::client::tests::model::book::{read_tag, write_tag};

impl World {
    pub(super) fn client(&mut self, act: Act) {
        match act {
            Act::Begin => {
                let session = Session::begin(self.hub.shared.clone());
                self.start(Job::Begin, async { Came::Session(session.await) });
            }
            Act::AttachSender(which) => {
                let Some(session) = pick(self.sessions.clone(), which) else {
                    return;
                };
                let name = self.name("sender");
                let spec = spec(&name);
                self.start(Job::Attach(name), async move {
                    Came::Sender(session.attach_sender(spec).await)
                });
            }
            Act::AttachReceiver(which, credit) => {
                let Some(session) = pick(self.sessions.clone(), which) else {
                    return;
                };
                let name = self.name("receiver");
                let mut spec = spec(&name);
                spec.address = credit.to_string();
                self.start(Job::Attach(name), async move {
                    Came::Receiver(session.attach_receiver(spec, credit).await)
                });
            }
            Act::Send(which, size) => self.send(which, size, false),
            Act::SendSettled(which, size) => self.send(which, size, true),
            Act::Receive(which) | Act::Hold(which) => {
                let holds = matches!(act, Act::Hold(_));
                if let Some((name, mut receiver)) = pick(self.receivers(), which) {
                    self.start(Job::Receive(name), async move {
                        match holds {
                            true => Came::Held(receiver.recv_and_hold().await),
                            false => Came::Received(receiver.recv().await),
                        }
                    });
                }
            }
            Act::Stop(which) => {
                if let Some((name, mut receiver)) = pick(self.receivers(), which) {
                    self.start(Job::Stop(name), async move {
                        Came::Stopped(receiver.stop().await)
                    });
                }
            }
            Act::Done(which) => {
                let Some(name) = pick(self.held.clone(), which) else {
                    return;
                };
                let at = self.held.iter().position(|held| *held == name);
                let link = self.links.iter().find(|link| link.name == name);
                if let Some(Half::Receiver(receiver)) = link.map(|link| &link.half)
                    && let Ok(receiver) = receiver.try_lock()
                {
                    receiver.done();
                    self.held.swap_remove(at.unwrap_or(0));
                }
            }
            Act::Settle(which, verdict) => {
                let Some((name, id)) = pick(self.received.clone(), which) else {
                    return;
                };
                let link = self.links.iter().find(|link| link.name == name);
                let Some(Half::Receiver(receiver)) = link.map(|link| &link.half) else {
                    return self.received.retain(|(on, _)| *on != name);
                };
                let Ok(receiver) = receiver.try_lock() else {
                    return;
                };
                let verdict = match verdict % 3 {
                    0 => Verdict::Accept,
                    1 => Verdict::Reject,
                    _ => Verdict::Release,
                };
                if let Err(error) = receiver.settle(id, verdict) {
                    self.is_known(&name, &error);
                }
                self.received.retain(|known| *known != (name.clone(), id));
            }
            Act::WatchSession(which) => {
                if let Some(session) = pick(self.sessions.clone(), which)
                    && !self.tasks.iter().any(|(job, _)| matches!(job, Job::Watch))
                {
                    self.start(Job::Watch, async move {
                        let event = session.event().await;
                        Came::Event(session, event)
                    });
                }
            }
            Act::CloseLink(which) => {
                if let Some(Link { half, .. }) = self.take_link(which) {
                    self.start(Job::Close, async move {
                        // Whether the hub answered or went makes no difference to who closes.
                        match half {
                            Half::Sender(sender) => {
                                let sender = Arc::into_inner(sender).unwrap().into_inner();
                                drop(sender.close().await);
                            }
                            Half::Receiver(receiver) => {
                                let receiver = Arc::into_inner(receiver).unwrap().into_inner();
                                drop(receiver.close().await);
                            }
                        }
                        Came::Closed
                    });
                }
            }
            Act::DropLink(which) => drop(self.take_link(which)),
            Act::DropSession(which) => {
                if !self.sessions.is_empty() {
                    let which = usize::from(which) % self.sessions.len();
                    self.sessions.swap_remove(which);
                }
            }
            Act::Cancel(which) => {
                if !self.tasks.is_empty() {
                    let which = usize::from(which) % self.tasks.len();
                    self.tasks.swap_remove(which);
                }
            }
            Act::Poll(which) => {
                if !self.tasks.is_empty() {
                    let which = usize::from(which) % self.tasks.len();
                    if let Some(came) = self.tasks[which].1.poll() {
                        let (job, _) = self.tasks.swap_remove(which);
                        self.read();
                        self.came(job, came);
                    }
                }
            }
            Act::Close => self.hub.shared.with(State::close),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}-{}", self.names)
    }

    pub(super) fn send(&mut self, which: u8, size: u16, settled: bool) {
        let senders = self.links.iter_mut().filter_map(|link| match &link.half {
            Half::Sender(sender) => sender
                .clone()
                .try_lock_owned()
                .ok()
                .map(|held| (link, held)),
            Half::Receiver(_) => None,
        });
        let mut senders: Vec<_> = senders.collect();
        if senders.is_empty() {
            return;
        }
        let (link, mut sender) = senders.swap_remove(usize::from(which) % senders.len());
        drop(senders);
        link.sent += 1;
        let tag = (link.name.clone(), link.sent);
        let payload = write_tag(&tag, size.into());
        self.start(Job::Send(tag), async move {
            let sent = match settled {
                true => sender.send_settled(payload).await.map(|()| None),
                false => sender.send(payload, 0).await.map(Some),
            };
            Came::Sent(sent)
        });
    }

    /// A link, with nobody left who uses it.
    pub(super) fn take_link(&mut self, which: u8) -> Option<Link> {
        if self.links.is_empty() {
            return None;
        }
        let which = usize::from(which) % self.links.len();
        let link = self.links.swap_remove(which);
        self.tasks.retain(|(job, _)| match job {
            Job::Send((name, _)) | Job::Receive(name) | Job::Stop(name) => *name != link.name,
            _ => true,
        });
        self.received.retain(|(name, _)| *name != link.name);
        self.held.retain(|name| *name != link.name);
        Some(link)
    }

    /// Has somebody wait on each receiver that nobody waits on.
    pub(super) fn receive_all(&mut self) {
        for (name, mut receiver) in self.receivers() {
            self.start(Job::Receive(name), async move {
                Came::Received(receiver.recv().await)
            });
            self.read();
        }
    }

    /// The receivers that nobody waits on.
    fn receivers(&self) -> Vec<(String, OwnedMutexGuard<Receiver>)> {
        let receivers = self.links.iter().filter_map(|link| match &link.half {
            Half::Receiver(receiver) => {
                Some((link.name.clone(), receiver.clone().try_lock_owned().ok()?))
            }
            Half::Sender(_) => None,
        });
        receivers.collect()
    }

    pub(super) fn start(&mut self, job: Job, future: impl Future<Output = Came> + 'static) {
        match Task::start(future) {
            Ok(came) => {
                self.read();
                self.came(job, came);
            }
            Err(task) => self.tasks.push((job, task)),
        }
    }

    /// Polls whom something woke, until nobody is.
    pub(super) fn run(&mut self) {
        loop {
            self.read();
            let mut tasks = self.tasks.iter_mut().enumerate();
            let came = tasks.find_map(|(at, (_, task))| Some((at, task.step()?)));
            let Some((at, came)) = came else { return };
            let (job, _) = self.tasks.swap_remove(at);
            self.read();
            self.came(job, came);
        }
    }

    /// Judges what a future came to.
    pub(super) fn came(&mut self, job: Job, came: Came) {
        match (job, came) {
            (Job::Begin, Came::Session(Ok(session))) => self.sessions.push(session),
            (Job::Begin, Came::Session(Err(error))) => {
                // One that has ended keeps its channel while somebody holds it.
                let is_full = self.book.sessions.len() > usize::from(CHANNEL_MAX);
                let has_ended = self.book.sessions.iter().any(|session| session.heard_end);
                assert!(
                    self.is_over || self.book.is_closed || is_full || has_ended,
                    "{error}"
                );
            }
            (Job::Attach(name), Came::Sender(Ok(sender))) => {
                assert!(self.is_attached(&name));
                self.ids.push((sender.session(), sender.id(), name.clone()));
                self.hold(name, Half::Sender(Arc::new(Mutex::new(sender))));
            }
            (Job::Attach(name), Came::Receiver(Ok(receiver))) => {
                assert!(self.is_attached(&name));
                self.hold(name, Half::Receiver(Arc::new(Mutex::new(receiver))));
            }
            (Job::Attach(name), Came::Sender(Err(error)) | Came::Receiver(Err(error))) => {
                let mut sessions = self.book.sessions.iter();
                let was_asked =
                    sessions.any(|session| session.links.iter().any(|link| link.name == name));
                if was_asked {
                    self.is_known(&name, &error);
                }
            }
            (Job::Send(tag), Came::Sent(Ok(Some(delivery)))) => {
                self.start(Job::Settled(tag), async { Came::Settled(delivery.await) });
            }
            (Job::Send(_), Came::Sent(Ok(None))) => {}
            (Job::Send((name, _)), Came::Sent(Err(error))) => self.is_known(&name, &error),
            (Job::Settled(tag), Came::Settled(Ok(outcome))) => {
                assert_eq!(self.book.verdicts.get(&tag), Some(&outcome), "{tag:?}");
            }
            (Job::Settled((name, _)), Came::Settled(Err(error))) => self.is_known(&name, &error),
            (Job::Receive(name), Came::Received(Ok(message))) => self.received(name, message),
            (Job::Receive(name), Came::Held(Ok(message))) => {
                if message.settled {
                    self.held.push(name.clone());
                }
                self.received(name, message);
            }
            (Job::Receive(name), Came::Received(Err(error)) | Came::Held(Err(error))) => {
                self.is_known(&name, &error);
            }
            (Job::Stop(name), Came::Stopped(Ok(()))) => {
                let mut sessions = self.book.sessions.iter();
                let is_heard = |session: &book::Session| {
                    let mut sent = session.sent.iter();
                    sent.all(|sent| session.links[sent.link].name != name || sent.is_heard)
                };
                assert!(self.is_strange || sessions.all(is_heard));
            }
            (Job::Stop(name), Came::Stopped(Err(error))) => self.is_known(&name, &error),
            (Job::Close, Came::Closed) => {}
            (Job::Watch, Came::Event(session, SessionEvent::Detached(link))) => {
                // Whoever attached it may not have looked yet: then its name is not known.
                let mut ids = self.ids.iter();
                let known = ids.find(|(on, id, _)| (*on, *id) == (session.key(), link));
                let is_over = known.is_none_or(|(_, _, name)| self.book.over.contains(name));
                assert!(is_over, "{link:?} is not detached");
                self.start(Job::Watch, async move {
                    let event = session.event().await;
                    Came::Event(session, event)
                });
            }
            (Job::Watch, Came::Event(_, SessionEvent::Ended(_))) => {}
            (job, _) => panic!("{job:?} came to something else"),
        }
    }

    pub(super) fn hold(&mut self, name: String, half: Half) {
        self.links.push(Link {
            name,
            half,
            sent: 0,
            last: None,
        });
    }

    pub(super) fn received(&mut self, name: String, message: Incoming) {
        if !self.is_strange {
            let (on, number) = read_tag(&message.payload);
            assert_eq!(on, name, "a message of another link");
            assert!(message.payload.ends_with(b"."), "all of it");
            let link = self.links.iter_mut().find(|link| link.name == name);
            if let Some(link) = link {
                assert!(link.last.is_none_or(|last| last < number), "in order");
                link.last = Some(number);
            }
        }
        if !message.settled {
            self.received.push((name, message.id));
        }
    }

    pub(super) fn is_attached(&self, name: &str) -> bool {
        let mut links = self.book.sessions.iter().flat_map(|session| &session.links);
        links.any(|link| link.name == name && link.is_attached)
    }

    /// A failure of a link has a cause that is known.
    pub(super) fn is_known(&self, name: &str, error: &ClientError) {
        let is_known = self.is_over || self.book.is_closed || self.book.over.contains(name);
        assert!(is_known, "{name} failed: {error}");
    }
}
