import type { SchedulingPolicy } from '../config/vllm';
import { comparePriority } from './request';
import type { Request } from './request';

/** Waiting requests in the order in which they will be admitted (vllm.v1.core.sched.request_queue.RequestQueue). */
export interface RequestQueue extends Iterable<Request> {
  readonly size: number;
  /** A request that has just arrived. */
  add(request: Request): void;
  /** A request that was preempted. */
  prepend(request: Request): void;
  peek(): Request | undefined;
  pop(): Request | undefined;
  /** Returns whether it was in the queue. */
  remove(request: Request): boolean;
}

interface Node {
  readonly request: Request;
  prev: Node | null;
  next: Node | null;
}

/** First come, first served: a linked list with an index. Every operation is O(1). Iteration is in order. */
export class FcfsQueue implements RequestQueue {
  private first: Node | null = null;
  private last: Node | null = null;
  private readonly nodes = new Map<Request, Node>();

  get size(): number {
    return this.nodes.size;
  }

  add(request: Request): void {
    const node: Node = { request, prev: this.last, next: null };
    if (this.last === null) this.first = node;
    else this.last.next = node;
    this.last = node;
    this.nodes.set(request, node);
  }

  prepend(request: Request): void {
    const node: Node = { request, prev: null, next: this.first };
    if (this.first === null) this.last = node;
    else this.first.prev = node;
    this.first = node;
    this.nodes.set(request, node);
  }

  peek(): Request | undefined {
    return this.first?.request;
  }

  pop(): Request | undefined {
    const request = this.first?.request;
    if (request !== undefined) this.remove(request);
    return request;
  }

  remove(request: Request): boolean {
    const node = this.nodes.get(request);
    if (node === undefined) return false;
    this.nodes.delete(request);
    if (node.prev === null) this.first = node.next;
    else node.prev.next = node.next;
    if (node.next === null) this.last = node.prev;
    else node.next.prev = node.prev;
    return true;
  }

  *[Symbol.iterator](): Generator<Request> {
    for (let node = this.first; node !== null; node = node.next) yield node.request;
  }
}

/**
 * Binary heap ordered by (priority, arrivalTime, sequence), with the place of each request so that removal is O(log n)
 * too. Iteration is in heap order, not in priority order.
 */
export class PriorityQueue implements RequestQueue {
  private readonly heap: Request[] = [];
  private readonly places = new Map<Request, number>();

  get size(): number {
    return this.heap.length;
  }

  add(request: Request): void {
    this.heap.push(request);
    this.siftUp(this.heap.length - 1);
  }

  /** A preempted request keeps its key, which puts it where it belongs. */
  prepend(request: Request): void {
    this.add(request);
  }

  peek(): Request | undefined {
    return this.heap[0];
  }

  pop(): Request | undefined {
    const request = this.heap[0];
    if (request !== undefined) this.remove(request);
    return request;
  }

  remove(request: Request): boolean {
    const place = this.places.get(request);
    if (place === undefined) return false;
    this.places.delete(request);
    const last = this.heap.pop()!;
    if (last === request) return true;
    this.put(last, place);
    this.siftUp(place);
    this.siftDown(this.places.get(last)!);
    return true;
  }

  [Symbol.iterator](): Iterator<Request> {
    return this.heap[Symbol.iterator]();
  }

  private put(request: Request, place: number): void {
    this.heap[place] = request;
    this.places.set(request, place);
  }

  private siftUp(from: number): void {
    const request = this.heap[from]!;
    let place = from;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (comparePriority(this.heap[parent]!, request) <= 0) break;
      this.put(this.heap[parent]!, place);
      place = parent;
    }
    this.put(request, place);
  }

  private siftDown(from: number): void {
    const request = this.heap[from]!;
    let place = from;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= this.heap.length) break;
      if (child + 1 < this.heap.length && comparePriority(this.heap[child + 1]!, this.heap[child]!) < 0) child++;
      if (comparePriority(request, this.heap[child]!) <= 0) break;
      this.put(this.heap[child]!, place);
      place = child;
    }
    this.put(request, place);
  }
}

export function createRequestQueue(policy: SchedulingPolicy): RequestQueue {
  return policy === 'priority' ? new PriorityQueue() : new FcfsQueue();
}
