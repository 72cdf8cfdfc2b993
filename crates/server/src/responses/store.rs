//! [`Store`]: answers that later requests may refer to, in memory, bounded in number and bytes.

use crate::clients::Client;
use crate::id;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// A stored answer.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The client that asked for it.
    pub client: Client,
    /// The response, as JSON.
    pub response: String,
    /// The items of the conversation, its own output included, as a JSON list.
    pub items: String,
}

impl Stored {
    fn bytes(&self) -> usize {
        self.response.len() + self.items.len()
    }

    /// Whether a client may see it: answers to a request with a key are only for that key.
    fn belongs_to(&self, client: &Client) -> bool {
        match (&self.client, client) {
            (Client::Key(own), Client::Key(other)) => own == other,
            _ => true,
        }
    }

    /// The items of the conversation.
    pub fn items(&self) -> Vec<Value> {
        // The store wrote it itself.
        serde_json::from_str(&self.items).unwrap_or_default()
    }
}

/// Stored answers. The oldest are dropped first.
#[derive(Debug)]
pub(crate) struct Store {
    most: usize,
    most_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    answers: HashMap<String, Stored>,
    /// Their ids, the oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl Store {
    /// A store of at most `most` answers of together at most `most_bytes` bytes of JSON.
    pub fn new(most: usize, most_bytes: usize) -> Store {
        Store { most, most_bytes, held: Mutex::default() }
    }

    /// A new id.
    pub fn id() -> String {
        id::random("resp_")
    }

    /// Stores an answer. One that alone exceeds the limits is not stored.
    pub fn insert(&self, id: String, stored: Stored) {
        let bytes = stored.bytes();
        if self.most == 0 || bytes > self.most_bytes {
            tracing::debug!(id, bytes, "the response is too large for the store");
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.answers.len() >= self.most || held.bytes + bytes > self.most_bytes {
            let Some(oldest) = held.order.pop_front() else { break };
            held.remove(&oldest);
        }
        held.bytes += bytes;
        held.order.push_back(id.clone());
        held.answers.insert(id, stored);
    }

    /// The answer with this id, if the client may see it.
    pub fn get(&self, id: &str, client: &Client) -> Option<Stored> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.answers.get(id).filter(|stored| stored.belongs_to(client)).cloned()
    }

    /// Deletes an answer; false: there is none that the client may see.
    pub fn delete(&self, id: &str, client: &Client) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.answers.get(id).is_some_and(|stored| stored.belongs_to(client)) {
            return false;
        }
        held.remove(id);
        held.order.retain(|other| other != id);
        true
    }
}

impl Held {
    fn remove(&mut self, id: &str) {
        if let Some(stored) = self.answers.remove(id) {
            self.bytes -= stored.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(bytes: usize, client: Client) -> Stored {
        Stored { client, response: "x".repeat(bytes), items: String::new() }
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let store = Store::new(3, 100);
        let (client, has) = (Client::Unknown, |store: &Store| -> String {
            ["a", "b", "c", "d", "e"]
                .into_iter()
                .filter(|id| store.get(id, &Client::Unknown).is_some())
                .collect()
        });
        for id in ["a", "b", "c", "d"] {
            store.insert(id.into(), stored(10, client.clone()));
        }
        assert_eq!(has(&store), "bcd", "three at most");
        store.insert("e".into(), stored(85, client.clone()));
        assert_eq!(has(&store), "de", "100 bytes at most");
        store.insert("a".into(), stored(101, client.clone()));
        assert_eq!(has(&store), "de", "nothing is dropped for what does not fit");
        assert!(store.delete("d", &client) && !store.delete("d", &client));
        let held = store.held.lock().unwrap();
        assert_eq!((held.bytes, held.order.len(), held.answers.len()), (85, 1, 1));
    }

    #[test]
    fn answers_belong_to_their_key() {
        let store = Store::new(3, 100);
        store.insert("a".into(), stored(1, Client::Key(0)));
        assert!(store.get("a", &Client::Key(1)).is_none() && !store.delete("a", &Client::Key(1)));
        assert!(store.get("a", &Client::Key(0)).is_some() && store.delete("a", &Client::Key(0)));
    }
}
