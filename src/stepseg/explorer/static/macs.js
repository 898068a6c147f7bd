// Multiply-accumulates from token counts, as stepseg.macs counts them. All numbers are
// whole and below 2^53, hence exact.

/** By part. stages: [{head: index into costs.heads, tokens}], the decoder last. */
function countMacs(costs, stages, policyMacs) {
  const parts = {policy: policyMacs};
  parts.embedding = stages[0].tokens * 3 * costs.patch ** 2 * costs.dim;
  const {prefix, dim, norm} = costs;
  let norms = costs.normPre * norm * (stages[0].tokens + prefix) * dim, start = 0;
  for (const {head: index, tokens} of stages) {
    const head = costs.heads[index], blocks = head.block - start;
    const rows = tokens + prefix;  // of class token and registers, which never leave
    const isDecoder = index === costs.heads.length - 1;
    parts[`blocks_${start + 1}-${head.block}`] =
      blocks * (rows * costs.linear + 2 * rows ** 2 * dim);
    parts[isDecoder ? "decoder" : `exit_head_${head.block}`] = head.macs + tokens * head.macsPerToken;
    norms += norm * rows * blocks * costs.normed;
    norms += head.norms + tokens * head.normsPerToken;
    start = head.block;
  }
  parts.norms = norms;
  return parts;
}

function sum(parts) {
  return Object.values(parts).reduce((total, part) => total + part, 0);
}
