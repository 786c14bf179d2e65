/** One activation of a planned forward pass: needed from op `first` (which writes it) to op `last` (which reads it last). */
export interface Lifetime {
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

/** Activations start at multiples of this many bytes. */
export const ARENA_ALIGNMENT = 256;

/**
 * Places activations in one arena so that no two that live at the same time overlap: largest first, each at the lowest
 * offset that is free for its whole life (greedy by size; Pisarchyk and Lee, "Efficient Memory Management for Deep
 * Neural Net Inference", 2020). Pure.
 */
export function planArena(lifetimes: readonly Lifetime[]): { offsets: number[]; bytes: number } {
  const align = (n: number): number => Math.ceil(n / ARENA_ALIGNMENT) * ARENA_ALIGNMENT;
  const order = lifetimes.map((_, i) => i).sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || a - b);
  const offsets = new Array<number>(lifetimes.length).fill(0);
  const placed: { index: number; begin: number; end: number }[] = []; // sorted by begin
  let bytes = 0;
  for (const index of order) {
    const item = lifetimes[index]!;
    let begin = 0;
    for (const other of placed) {
      const life = lifetimes[other.index]!;
      if (life.first > item.last || life.last < item.first) continue;
      if (other.begin >= begin + item.bytes) break;
      begin = Math.max(begin, align(other.end));
    }
    offsets[index] = begin;
    const end = begin + item.bytes;
    const at = placed.findIndex((p) => p.begin > begin);
    placed.splice(at < 0 ? placed.length : at, 0, { index, begin, end });
    bytes = Math.max(bytes, end);
  }
  return { offsets, bytes: align(bytes) };
}
