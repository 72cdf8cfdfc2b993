//! Tests of chat templates.
use super::*;

#[test]
fn mock() {
    let template = ChatTemplate::mock();
    let text = template.render(&[Message::new("user", "hi")], &RenderOptions::default()).unwrap();
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}
