// The story, told by the official Node client: NAMESPACE MANIFEST; CLIENTS is where it is installed.
//
// Everything goes through what a user of the client calls; a wrong answer is an error, which ends the program.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { PassThrough, Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const [namespace, manifest] = process.argv.slice(2);
const installed = createRequire(`${process.env.CLIENTS}/node/`);
const k8s = await import(pathToFileURL(installed.resolve('@kubernetes/client-node')));
const PATIENCE = 120_000;

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const any = k8s.KubernetesObjectApi.makeApiClient(config);
const patching = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);

async function until(what, ask) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert(Date.now() < deadline, `not in time: ${what}`);
    await pause(200);
  }
}

// The refusal of a call that must not succeed.
async function refused(code, reason, call) {
  const error = await call.then(
    () => assert.fail('this should have been refused'),
    (error) => error,
  );
  assert.equal(error.code, code, error);
  assert.match(JSON.stringify(error.body), new RegExp(reason));
}

// A writable that keeps what is written.
function keeping() {
  const stream = new PassThrough();
  stream.text = '';
  stream.on('data', (data) => (stream.text += data));
  return stream;
}

// An informer, and waiting for what it tells.
async function informed(path, list, labels) {
  const told = [];
  const informer = k8s.makeInformer(config, path, list, labels);
  for (const verb of ['add', 'update', 'delete']) {
    informer.on(verb, (object) => told.push([verb, object]));
  }
  let failure;
  informer.on('error', (error) => (failure = error));
  await informer.start();
  const sees = (verb, accept) =>
    until(`the informer tells ${verb}`, () => {
      if (failure) throw failure;
      return told.some(([seen, object]) => seen === verb && accept(object));
    });
  return { informer, sees, told };
}

async function version() {
  assert.equal((await config.makeApiClient(k8s.VersionApi).getCode()).major, '1');
}

async function create() {
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  await refused(409, 'AlreadyExists', core.createNamespace({ body: { metadata: { name: namespace } } }));
  for (const object of k8s.loadAllYaml(readFileSync(manifest, 'utf8'))) {
    object.metadata.namespace = namespace;
    await any.create(object);
  }
  await until('the deployment is available', () => available(2));
}

async function available(replicas) {
  const { status } = await apps.readNamespacedDeploymentStatus({ name: 'web', namespace });
  return [status.availableReplicas, status.updatedReplicas, status.replicas].every((n) => n === replicas);
}

async function lists() {
  const pods = await core.listNamespacedPod({ namespace, labelSelector: 'app=web' });
  assert.equal(pods.items.length, 2);
  assert(pods.items.every((pod) => pod.status.phase === 'Running' && pod.status.podIP));
  const paged = [];
  let _continue;
  do {
    const page = await core.listNamespacedPod({ namespace, limit: 1, _continue });
    paged.push(...page.items.map((pod) => pod.metadata.name));
    _continue = page.metadata._continue;
  } while (_continue);
  assert.deepEqual(paged.sort(), pods.items.map((pod) => pod.metadata.name).sort());
  await refused(404, 'NotFound', core.readNamespacedPod({ name: 'nothing', namespace }));
}

// Create, replace and every kind of patch, seen by an informer and by a bare watch.
async function writes() {
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const { informer, sees } = await informed(path, () => core.listNamespacedConfigMap({ namespace }));
  const { metadata } = await core.listNamespacedConfigMap({ namespace });
  const bare = [];
  const query = { resourceVersion: metadata.resourceVersion, allowWatchBookmarks: true };
  const note = (kind, object) => bare.push([kind, object]);
  const watching = await new k8s.Watch(config).watch(path, query, note, () => {});

  const body = { metadata: { name: 'notes' }, data: { a: '1' } };
  assert((await core.createNamespacedConfigMap({ namespace, body, dryRun: 'All' })).metadata.uid);
  const made = await core.createNamespacedConfigMap({ namespace, body });
  await sees('add', (map) => map.metadata.name === 'notes');
  const fresh = { ...made, data: { a: '1', b: '2' } };
  await core.replaceNamespacedConfigMap({ name: 'notes', namespace, body: fresh });
  await refused(409, 'Conflict', core.replaceNamespacedConfigMap({ name: 'notes', namespace, body: fresh }));
  const patch = (body, strategy) =>
    core.patchNamespacedConfigMap({ name: 'notes', namespace, body }, patching(strategy));
  await patch({ data: { a: null, c: '3' } }, k8s.PatchStrategy.MergePatch);
  await patch({ data: { d: '4' } }, k8s.PatchStrategy.StrategicMergePatch);
  await patch([{ op: 'replace', path: '/data/b', value: 'x' }], k8s.PatchStrategy.JsonPatch);
  const whole = { b: 'x', c: '3', d: '4' };
  await sees('update', (map) => JSON.stringify(map.data) === JSON.stringify(whole));
  const invalid = { metadata: { name: 'Not_A_Name' } };
  await refused(422, 'metadata.name', core.createNamespacedConfigMap({ namespace, body: invalid }));
  await core.deleteNamespacedConfigMap({ name: 'notes', namespace });
  await sees('delete', (map) => map.metadata.name === 'notes');
  await until('the bare watch has it', () => bare.some(([kind]) => kind === 'DELETED'));
  const kinds = bare.map(([kind]) => kind).filter((kind) => kind !== 'BOOKMARK');
  assert.deepEqual(kinds, ['ADDED', 'MODIFIED', 'MODIFIED', 'MODIFIED', 'MODIFIED', 'DELETED']);
  watching.abort();
  await informer.stop();
}

// Server-side apply, by the client of all kinds and by the typed one.
async function applies() {
  const object = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied', namespace } };
  const apply = (data, manager, force) =>
    any.patch({ ...object, data }, undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
  await apply({ a: '1' }, 'first');
  const again = await apply({ a: '1' }, 'first');
  assert.equal(again.metadata.managedFields[0].manager, 'first');
  await refused(409, 'conflict with', apply({ a: '2' }, 'second'));
  assert.equal((await apply({ a: '2' }, 'second', true)).data.a, '2');
  const typed = await core.patchNamespacedConfigMap(
    { name: 'applied', namespace, body: { ...object, data: { b: '1' } }, fieldManager: 'second', force: true },
    patching(k8s.PatchStrategy.ServerSideApply),
  );
  assert.deepEqual(typed.data, { b: '1' });
}

async function scales() {
  const list = () => core.listNamespacedPod({ namespace, labelSelector: 'app=web' });
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const { informer, told } = await informed(path, list, 'app=web');
  const count = (verb) => told.filter(([seen]) => seen === verb).length;
  const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
  scale.spec.replicas = 3;
  await apps.replaceNamespacedDeploymentScale({ name: 'web', namespace, body: scale });
  await until('three are available', () => available(3));
  await until('the informer has seen three', () => count('add') === 3);
  await apps.patchNamespacedDeployment(
    { name: 'web', namespace, body: { spec: { replicas: 1 } } },
    patching(k8s.PatchStrategy.MergePatch),
  );
  await until('one is available', () => available(1));
  await until('the informer has seen two go', () => count('delete') === 2);
  await informer.stop();
  return (await list()).items[0].metadata.name;
}

async function readsLogs(name) {
  assert.equal(await core.readNamespacedPodLog({ name, namespace }), 'serving\n');
  const followed = keeping();
  const following = await new k8s.Log(config).log(namespace, name, 'web', followed, { follow: true });
  await until('the log is followed', () => followed.text === 'serving\n');
  following.abort();
}

async function executes(name) {
  const [out, err] = [keeping(), keeping()];
  const exec = new k8s.Exec(config);
  const status = await new Promise((done, failed) => {
    const command = ['sh', '-c', 'cat; echo err >&2; exit 7'];
    exec.exec(namespace, name, 'web', command, out, err, Readable.from(['typed by hand']), false, done).catch(failed);
  });
  assert.equal(status.status, 'Failure');
  const code = status.details.causes.find((cause) => cause.reason === 'ExitCode');
  assert.deepEqual([out.text, err.text, code.message], ['typed by hand', 'err\n', '7']);
}

async function forwards(name) {
  const output = keeping();
  const forward = new k8s.PortForward(config);
  const input = new PassThrough();
  const errors = keeping();
  const socket = await forward.portForward(namespace, name, [8080], output, errors, input);
  input.write('GET / HTTP/1.0\r\n\r\n');
  await until('the pod answers', () => output.text.includes(`hello from ${name}`));
  assert.equal(errors.text, '');
  // The pod closes after its answer, and then the server does.
  if (socket.readyState !== socket.CLOSED) await once(socket, 'close');
}

async function deletes() {
  await apps.deleteNamespacedDeployment({ name: 'web', namespace, propagationPolicy: 'Foreground' });
  await until('its pods are gone', async () => (await core.listNamespacedPod({ namespace })).items.length === 0);
  await core.deleteNamespace({ name: namespace });
  await until('the namespace is gone', () =>
    core.readNamespace({ name: namespace }).then(
      () => false,
      (error) => error.code === 404,
    ),
  );
}

// One act of the story, named before it begins: the last name says where it ended.
async function act(told, ...words) {
  console.log(told.name);
  return await told(...words);
}

await act(version);
await act(create);
await act(lists);
await act(writes);
await act(applies);
const pod = await act(scales);
await act(readsLogs, pod);
await act(executes, pod);
await act(forwards, pod);
await act(deletes);
console.log('the end');
process.exit(0);
