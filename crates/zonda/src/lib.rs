//! Opens a language model on a backend and generates text, chats and JSON: the front door of Zonda.
