//! Identifies clients and limits the answers that each has in flight.

use crate::error::ApiError;
use axum::http::StatusCode;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A client: all requests with the same key or, if the server has no keys, from the same address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// The number of the key.
    Key(usize),
    /// The address; for IPv6 its /64 network, since one client usually has all of its addresses.
    Address(IpAddr),
    /// The request did not come through a socket.
    #[default]
    Unknown,
}

impl Client {
    pub fn at(address: IpAddr) -> Client {
        Client::Address(network(address))
    }
}

/// The addresses that one client may have: for IPv6, its /64 network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

/// Answers in flight, by client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<HashMap<Client, usize>>>);

impl Clients {
    /// Adds `count` answers in flight to a client whose limit is `most`.
    ///
    /// # Errors
    /// 429 if the client would exceed its limit; 400 if `count` alone exceeds it.
    pub fn take(&self, client: &Client, count: usize, most: Option<usize>) -> Result<Share, ApiError> {
        let most = most.filter(|_| *client != Client::Unknown).unwrap_or(usize::MAX);
        if count > most {
            let message =
                format!("expected at most {most} answers in all, the limit of one client, found {count}");
            return Err(ApiError::field("n", message));
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.entry(client.clone()).or_default();
        if *own + count > most {
            let message =
                format!("expected at most {most} answers at once for one client, found {}", *own + count);
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "client_limit", message));
        }
        *own += count;
        Ok(Share { clients: self.clone(), client: client.clone(), count })
    }
}

/// Some answers of a client, subtracted when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    clients: Clients,
    client: Client,
    count: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.client) {
            *own -= self.count.min(*own);
            if *own == 0 {
                held.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_no_more() {
        let clients = Clients::default();
        let (one, two) = (Client::Key(0), Client::at("2001:db8::1".parse().unwrap()));
        assert_eq!(two, Client::at("2001:db8::2".parse().unwrap()), "one network");
        let held = clients.take(&one, 3, Some(4)).unwrap();
        assert_eq!(clients.take(&one, 2, Some(4)).unwrap_err().status, 429);
        assert_eq!(clients.take(&one, 5, Some(4)).unwrap_err().status, 400);
        let other = clients.take(&two, 4, Some(4)).unwrap();
        drop(held);
        clients.take(&one, 4, Some(4)).unwrap();
        drop(other);
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
