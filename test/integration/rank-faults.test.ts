import { describeShared } from '../fixtures/shared';
import { faults, rankFault } from './rank-faults-suite';
import { hasGloo, hasMpirun } from './ranks';

const describeRanks = hasGloo ? describeShared : describe.skip;

describeRanks('a rank that ends, of two that rank 0 started', () => {
  it.each(faults(['start', 'prefill', 'decode']))('rank $rank, at $phase: $how', (fault) => rankFault('kvasir', 'cpu', fault), 60_000);
});

(hasMpirun ? describeRanks : describe.skip)('a rank that ends, of two under mpirun', () => {
  it.each(faults(['prefill', 'decode']))('rank $rank, at $phase: $how', (fault) => rankFault('mpirun', 'cpu', fault), 60_000);
});
