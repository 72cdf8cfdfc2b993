//! Limits open connections, in total and per address, and closes idle ones when there are too many.

use crate::clients::network;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    most: usize,
    per_address: usize,
}

#[derive(Debug, Default)]
struct Open {
    /// In order of arrival.
    visits: BTreeMap<u64, Visit>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
}

/// One connection, as its requests see it.
#[derive(Clone, Debug)]
pub(crate) struct Visit(Arc<State>);

#[derive(Debug)]
struct State {
    address: IpAddr,
    admitted: AtomicBool,
    close: Notify,
}

impl Visit {
    /// The client's address; for IPv6 its /64 network.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// Marks the connection as in use, after a request on it was accepted. It is then not closed to make room.
    pub fn admit(&self) {
        self.0.admitted.store(true, Ordering::Relaxed);
    }

    /// Resolves when the connection must be closed to make room.
    pub async fn closed(&self) {
        self.0.close.notified().await;
    }

    fn is_admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Relaxed)
    }
}

/// Why a connection is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The address has the maximum number of connections.
    Address,
    /// The server has the maximum number of connections.
    Full,
}

impl Connections {
    pub fn new(most: usize, per_address: usize) -> Connections {
        Connections { open: Mutex::default(), most: most.max(1), per_address: per_address.max(1) }
    }

    /// Adds a connection. The IPv6 addresses of one /64 network count as one. If there are too many, the oldest one without an accepted request is closed: of the same address if
    /// that has too many, otherwise of any.
    ///
    /// # Errors
    /// If all of them have an accepted request.
    pub fn enter(self: &Arc<Connections>, address: IpAddr) -> Result<Entered, Refused> {
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.by_address.get(&address).is_some_and(|&n| n >= self.per_address) && !open.evict(Some(address))
        {
            return Err(Refused::Address);
        }
        if open.visits.len() >= self.most && !open.evict(None) {
            return Err(Refused::Full);
        }
        let number = open.next;
        open.next += 1;
        let visit =
            Visit(Arc::new(State { address, admitted: AtomicBool::new(false), close: Notify::new() }));
        open.visits.insert(number, visit.clone());
        *open.by_address.entry(address).or_default() += 1;
        Ok(Entered { connections: self.clone(), number, visit })
    }
}

impl Open {
    fn evict(&mut self, address: Option<IpAddr>) -> bool {
        let idle = |visit: &Visit| !visit.is_admitted() && address.is_none_or(|a| a == visit.address());
        let Some(number) = self.visits.iter().find(|(_, visit)| idle(visit)).map(|(&n, _)| n) else {
            return false;
        };
        if let Some(visit) = self.remove(number) {
            visit.0.close.notify_one();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Visit> {
        let visit = self.visits.remove(&number)?;
        let address = visit.address();
        if let Some(n) = self.by_address.get_mut(&address) {
            *n -= 1;
            if *n == 0 {
                self.by_address.remove(&address);
            }
        }
        Some(visit)
    }
}

/// An open connection, removed when dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    connections: Arc<Connections>,
    number: u64,
    pub visit: Visit,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(self.number);
    }
}

/// A stream whose writes fail if the other side reads nothing for some time.
#[derive(Debug)]
pub(crate) struct Impatient<S> {
    stream: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub fn new(stream: S, limit: Duration) -> Impatient<S> {
        Impatient { stream, limit, waiting: None }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_make_room_and_admitted_ones_stay() {
        let connections = Arc::new(Connections::new(4, 3));
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = connections.enter(a).unwrap();
        first.visit.admit();
        let idle = connections.enter(a).unwrap();
        let _third = connections.enter(a).unwrap();
        let fourth = connections.enter(a).unwrap();
        let held = |visit: &Visit| {
            connections.open.lock().unwrap().visits.values().any(|v| Arc::ptr_eq(&v.0, &visit.0))
        };
        assert!(held(&first.visit) && !held(&idle.visit) && held(&fourth.visit));
        let others: Vec<Entered> = (0..3).map(|_| connections.enter(b).unwrap()).collect();
        assert!(held(&first.visit) && !held(&fourth.visit), "the oldest idle one went");
        others.iter().for_each(|entered| entered.visit.admit());
        assert_eq!(connections.enter(b).err(), Some(Refused::Address));
        let c = "10.0.0.3".parse().unwrap();
        assert_eq!(connections.enter(c).err(), Some(Refused::Full));
        drop(others);
        assert!(connections.enter(c).is_ok());
    }

    #[test]
    fn one_clients_ipv6_addresses_count_as_one() {
        let connections = Arc::new(Connections::new(100, 3));
        let address = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        let held: Vec<Entered> = (0..3).map(|i| connections.enter(address(0, i)).unwrap()).collect();
        held.iter().for_each(|entered| entered.visit.admit());
        assert_eq!(connections.enter(address(0, 9)).err(), Some(Refused::Address));
        assert!(connections.enter(address(1, 9)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_read_is_cut_off() {
        use tokio::io::AsyncWriteExt as _;
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Impatient::new(near, Duration::from_secs(30));
        let error = near.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
