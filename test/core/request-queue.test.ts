import fc from 'fast-check';
import { comparePriority } from '../../lib/core/request';
import type { Request } from '../../lib/core/request';
import { createRequestQueue } from '../../lib/core/request-queue';
import type { RequestQueue } from '../../lib/core/request-queue';
import { request } from './fixtures/requests';

const drain = (queue: RequestQueue): string[] => {
  const ids: string[] = [];
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) ids.push(next.requestId);
  return ids;
};

describe('FcfsQueue', () => {
  it('keeps the order of arrival, with preempted requests in front', () => {
    const queue = createRequestQueue('fcfs');
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((id) => request(id, [1])) as [Request, Request, Request, Request];
    queue.add(a);
    queue.add(b);
    queue.prepend(c);
    queue.prepend(d);
    expect(Array.from(queue, (r) => r.requestId)).toEqual(['d', 'c', 'a', 'b']);
    expect(queue.peek()).toBe(d);
    expect(queue.remove(c)).toBe(true);
    expect(queue.remove(c)).toBe(false);
    expect(queue.remove(b)).toBe(true);
    expect(queue.size).toBe(2);
    expect(drain(queue)).toEqual(['d', 'a']);
    expect([queue.pop(), queue.peek()]).toEqual([undefined, undefined]);
    queue.prepend(b);
    queue.add(a);
    expect(drain(queue)).toEqual(['b', 'a']);
  });

  it('ignores priority', () => {
    const queue = createRequestQueue('fcfs');
    queue.add(request('low', [1], { priority: 9 }));
    queue.add(request('high', [1], { priority: 0 }));
    expect(drain(queue)).toEqual(['low', 'high']);
  });
});

describe('PriorityQueue', () => {
  it('orders by priority, then arrival time, then order of addRequest', () => {
    const queue = createRequestQueue('priority');
    const requests = [
      request('d', [1], { priority: 1, arrivalTime: 5 }),
      request('b', [1], { priority: 0, arrivalTime: 7 }),
      request('c', [1], { priority: 0, arrivalTime: 7 }),
      request('a', [1], { priority: 0, arrivalTime: 6 }),
    ];
    for (const r of requests) queue.add(r);
    expect(drain(queue)).toEqual(['a', 'b', 'c', 'd']);
  });

  it('stays ordered when a removal moves a request up', () => {
    const queue = createRequestQueue('priority');
    // Added in heap order: 10 with the large ones on the left, 1 with the small ones on the right. The last one, 7, takes the
    // place of 11 under 10.
    const priorities = [0, 10, 1, 11, 12, 2, 3, 13, 14, 15, 16, 4, 5, 6, 7];
    const requests = priorities.map((priority) => request(`p${priority}`, [1], { priority }));
    for (const r of requests) queue.add(r);
    queue.remove(requests[3]!);
    expect(drain(queue)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 10, 12, 13, 14, 15, 16].map((priority) => `p${priority}`));
  });

  it('agrees with a sorted list under random adds, pops and removals', () => {
    const operation = fc.record({ kind: fc.integer({ min: 0, max: 4 }), priority: fc.integer({ min: -2, max: 2 }), pick: fc.nat() });
    fc.assert(fc.property(fc.array(operation, { maxLength: 200 }), (operations) => {
      const queue = createRequestQueue('priority');
      const model: Request[] = [];
      operations.forEach(({ kind, priority, pick }, i) => {
        if (kind <= 2) {
          const added = request(`r${i}`, [1], { priority, arrivalTime: pick % 3 });
          if (kind === 0) queue.prepend(added);
          else queue.add(added);
          model.push(added);
          model.sort(comparePriority);
        } else if (kind === 3) {
          expect(queue.pop()).toBe(model.shift());
        } else if (model.length > 0) {
          expect(queue.remove(model.splice(pick % model.length, 1)[0]!)).toBe(true);
        }
        expect(queue.size).toBe(model.length);
        expect(queue.peek()).toBe(model[0]);
      });
      expect([...queue].sort(comparePriority)).toEqual(model);
      expect(drain(queue)).toEqual(model.map((r) => r.requestId));
    }));
  });
});
