use std::collections::HashMap;

#[inline(always)]
fn square(x: u64) -> u64 {
    x.wrapping_mul(std::hint::black_box(x))
}

trait Shape {
    fn area(&self) -> u64;
}

struct Square(u64);

impl Shape for Square {
    #[inline(never)]
    fn area(&self) -> u64 {
        square(self.0)
    }
}

#[inline(never)]
fn total<T: Shape>(shapes: &[T]) -> u64 {
    shapes.iter().map(|shape| shape.area()).fold(0, |sum, area| sum.wrapping_add(square(area)))
}

#[inline(never)]
fn words(text: &str) -> usize {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for word in text.split(' ') {
        *counts.entry(word).or_default() += 1;
    }
    counts.len()
}

fn main() {
    let shapes: Vec<Square> = (0..std::env::args().count() as u64 * 10).map(Square).collect();
    println!("{} {}", total(&shapes), words("a b a"));
}
