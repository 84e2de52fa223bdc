// Some nodes of HyperDHT in one process, told what to do by lines of JSON on standard input.
// node hyperdht_nodes.js MODULE COUNT [PORT]: MODULE is where hyperdht is installed, PORT that of a node to join by.
const crypto = require('crypto')
const readline = require('readline')

const DHT = require(process.argv[2])
const HOST = '127.0.0.1'
const count = Number(process.argv[3])
const port = Number(process.argv[4] || 0)

const nodes = []
let turn = 0
let prepared = []

function resident () {
  if (global.gc) global.gc()
  return process.memoryUsage().rss
}

function pick (factor) {
  return nodes[(turn * factor + 5) % nodes.length]
}

async function announce () {
  turn++
  const topic = crypto.createHash('sha256').update(`${process.pid}|${turn}`).digest()
  const begin = performance.now()
  const node = pick(7)
  await node.announce(topic, node.defaultKeyPair, []).finished()
  return [topic, performance.now() - begin]
}

async function lookup (topic) {
  turn++
  const begin = performance.now()
  let first = 0
  for await (const reply of pick(13).lookup(topic)) {
    if (!first && reply.peers.length) first = performance.now() - begin
  }
  return [first, performance.now() - begin]
}

async function carryOut (order) {
  const announced = []
  let topics = []
  if (order.do === 'cycle' || order.do === 'prepare') {
    for (let i = 0; i < order.count; i++) {
      const [topic, took] = await announce()
      topics.push(topic)
      announced.push(took)
    }
  }
  if (order.do === 'prepare') {
    prepared = topics
    return { announce: announced }
  }
  if (order.do === 'find') topics = Array.from({ length: order.count }, (_, i) => prepared[i % prepared.length])
  const found = []
  for (const topic of topics) found.push(await lookup(topic))
  return {
    announce: announced,
    first: found.filter(([first]) => first).map(([first]) => first),
    lookup: found.map(([, took]) => took),
    misses: found.filter(([first]) => !first).length,
    resident: resident()
  }
}

async function main () {
  const before = resident()
  const bootstrap = port ? [{ host: HOST, port }] : []
  while (nodes.length < count) {
    const node = new DHT({ ephemeral: false, firewalled: false, bootstrap, host: HOST })
    await node.fullyBootstrapped()
    if (!bootstrap.length) bootstrap.push({ host: HOST, port: node.address().port })
    nodes.push(node)
  }
  console.log(JSON.stringify({ port: nodes[0].address().port, resident: before }))
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await carryOut(JSON.parse(line))))
  }
  process.exit(0)
}

main()
