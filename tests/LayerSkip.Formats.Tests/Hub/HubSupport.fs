module LayerSkip.Tests.HubSupport

open System
open System.IO
open System.Text
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Tests.HubServer

let text (content: string) = Encoding.UTF8.GetBytes content

/// Bytes that no two places have alike.
let bytes (count: int) (salt: int) = Array.init count (fun i -> byte ((i * 31 + i / 251 * 7 + salt) % 256))

/// A folder's files, with one of weights.
let folderFiles = [
    "README.md", text "# A model"
    "config.json", text "{\"model_type\": \"llama\"}"
    "generation_config.json", text "{}"
    "tokenizer.json", text "[]"
    "pytorch_model.bin", bytes 100 1
    "model.safetensors", bytes 300_000 2
]

let options (hub: FakeHub) (cache: string) : HubOptions = {
    Cache = cache
    Endpoint = hub.Hub.Url
    Token = None
    Offline = false
    Timeout = TimeSpan.FromSeconds 2.0
    Parallel = 4
    Retries = 3
    Backoff = TimeSpan.FromMilliseconds 1.0
}

let pullWith (options: HubOptions) (name: string) =
    (Hub.pull options name ignore CancellationToken.None).GetAwaiter().GetResult()

let pull (hub: FakeHub) (cache: string) = pullWith (options hub cache) "org/name"

let got (result: Result<'T, LayerSkipError list>) : 'T =
    match result with
    | Ok value -> value
    | Error faults -> failtest (LayerSkipError.summary faults)

/// A folder for a cache, gone after `body`; not made.
let withCache (body: string -> 'T) : 'T =
    FileSupport.withFolder (fun folder -> body (Path.Combine(folder, "hub")))

let private under (folder: string) (name: string) =
    let inside = Path.Combine(folder, name)

    if Directory.Exists inside then
        Directory.GetFiles(inside, "*", SearchOption.AllDirectories) |> List.ofArray
    else
        []

/// What looks whole in a cache is: blobs have the bytes that their names promise, links lead to those of their file.
let isSound (hub: FakeHub) (cache: string) : unit =
    let folder = hub.FolderIn cache

    for blob in under folder "blobs" do
        if not (blob.EndsWith ".incomplete") then
            let content = File.ReadAllBytes blob
            let name = Path.GetFileName blob
            Expect.isTrue (name = sha256 content || name = gitSha1 content) $"{name} is not what it is called"

    let snapshot = Path.Combine(folder, "snapshots", commit)

    for link in under folder "snapshots" do
        let name = Path.GetRelativePath(snapshot, link)
        let _, content = hub.Files |> List.find (fst >> (=) name)
        Expect.equal (File.ReadAllBytes link) content name

/// The model is here, whole, and nothing else.
let isWhole (hub: FakeHub) (cache: string) (snapshot: HubSnapshot) (names: string list) : unit =
    isSound hub cache
    Expect.equal (snapshot.Files |> List.map fst |> List.sort) (List.sort names) "what the model needs"

    for name in names do
        let path = Path.Combine(hub.FolderIn cache, "snapshots", commit, name)
        Expect.isTrue (File.Exists path) name

    let unfinished =
        under (hub.FolderIn cache) "."
        |> List.filter (fun path -> path.EndsWith ".incomplete" || path.EndsWith ".tmp")

    Expect.isEmpty unfinished "nothing is left over"
    let branch = File.ReadAllText(Path.Combine(hub.FolderIn cache, "refs", "main"))
    Expect.equal branch commit "the branch's commit"

/// No model looks whole, by its branch or by its commit.
let isAbsent (hub: FakeHub) (cache: string) : unit =
    isSound hub cache
    let offline = { options hub cache with Offline = true }

    for name in [ "org/name"; $"org/name@{commit}" ] do
        Expect.isError (pullWith offline name) $"{name} is not whole"

/// One line, whose words tell what to do.
let refusedWith (words: string list) (result: Result<'T, LayerSkipError list>) : unit =
    match result with
    | Ok _ -> failtest "a fault was expected"
    | Error faults ->
        let line = LayerSkipError.summary faults

        for word in words do
            Expect.stringContains line word line

        Expect.isFalse (line.Contains '\n') "one line"
        Expect.isLessThan line.Length 420 line

/// Answers of this kind until so many went out; then good ones.
let firstTimes
    (count: int)
    (isMeant: Asked -> bool)
    (worse: Asked -> Reply -> Reply)
    : Asked -> Reply -> Reply =
    let left = ref count

    fun asked good ->
        if isMeant asked && Interlocked.Decrement left >= 0 then
            worse asked good
        else
            good
