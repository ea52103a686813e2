// Makes the default model in models/: the teller that writes its lessons, its tokenizer, its training, its curves. Stopped
// (Ctrl-C) or killed, it goes on from what is done when it is called again.
//
//     dotnet fsi scripts/train-default.fsx --device cuda
//     dotnet fsi scripts/train-default.fsx --text DIR --teller MODEL --told FILE --run DIR --stories N --steps N --settle N --own N --finish N --recipe paper
//
// On one H200 the first training takes minutes, with the teller and what it tells; what comes after it takes an hour on two
// cores. There the lessons alone take a day: ask for fewer `--stories`, or give them with `--told FILE`, and for fewer `--steps`.
#load "options.fsx"

open Options

let given =
    Given [
        "--device cpu|cuda", "cpu"
        "--text DIR", "../shared/data/text"
        "--teller MODEL", "../shared/data/smollm2-135m-instruct/model.gguf"
        "--told FILE", "what the teller tells"
        "--run DIR", "runs/ and the recipe"
        "--recipe default|paper", "default"
        "--stories N", "80000"
        "--temperature T", "1.0"
        "--steps N", "1550"
        "--rate R", "0.003"
        "--settle N", "1800"
        "--own N", "6000"
        "--finish N", "350"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else
open System
open System.IO
open System.Runtime.InteropServices
open System.Text.Json
open System.Text.RegularExpressions
open LayerSkip
open TorchSharp

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))

let recipeName = given.Text "--recipe"
let text = given.Path "--text"
let run = given.TryText "--run" |> Option.defaultValue (Path.Combine(root, "runs", recipeName))
let steps = given.Whole("--steps", 1)
let storyCount = given.Whole("--stories", 1)
let temperature = given.Real "--temperature"

let device =
    match given.Text "--device" with
    | "cpu" -> Device.Cpu
    | "cuda" -> Device.Cuda
    | other -> stop 2 $"--device is {other}, it must be cpu or cuda"

Backend.tryDevice device |> orStop |> ignore

if recipeName <> "default" && recipeName <> "paper" then
    stop 2 $"--recipe is {recipeName}, it must be default or paper"

let isGpu = device = Device.Cuda
let passes = if isGpu then Dtype.BF16 else Dtype.F32
let people = Path.Combine(text, "tinystories-train.txt")
let validation = Path.Combine(text, "tinystories-valid.txt")

let mutable stopped = false

let onSignal (context: PosixSignalContext) =
    context.Cancel <- true
    stopped <- true

let interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, onSignal)
let terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, onSignal)

let listed (values: (int * float) seq) digits =
    values
    |> Seq.map (fun (exit, value) -> $"""{exit}: {value.ToString("F" + string digits)}""")
    |> String.concat "  "

let follow (session: TrainingSession) =
    for event in TrainingSession.run (fun () -> stopped) session do
        match event with
        | TrainingEvent.Stepped report when report.Step % 25 = 0 ->
            let exits =
                Seq.indexed report.Sums.CrossEntropy
                |> Seq.filter (fun (_, sum) -> sum > 0.0)
                |> Seq.map (fun (layer, sum) -> layer + 1, sum / float report.Sums.Tokens)

            printfn
                "step %d  loss %.3f  %s  %.0f tokens/s"
                report.Step
                (report.Sums.Objective / float report.Sums.Tokens)
                (listed exits 3)
                (float report.Tokens / report.Seconds)
        | TrainingEvent.Stepped _ -> ()
        | TrainingEvent.Validated(step, entropies) ->
            printfn "step %d  validation  %s" step (listed (entropies |> Seq.mapi (fun i e -> i + 1, e)) 3)
        | TrainingEvent.Probed(step, accepted) -> printfn "step %d  accepted  %s" step (listed accepted 3)
        | TrainingEvent.Saved(_, folder) -> eprintfn "saved %s" folder
        | TrainingEvent.Ended(_, TrainingEnd.Finished) -> printfn "finished: %s" session.Output
        | TrainingEvent.Ended(step, TrainingEnd.Stopped) ->
            printfn "stopped after step %d; the same command goes on" step
            exit 130
        | TrainingEvent.Ended(_, TrainingEnd.Failed fault) -> stop 1 $"step {fault.Step}: {fault.What}"
        | TrainingEvent.Ended(_, TrainingEnd.Unwritable faults) -> stop 1 (LayerSkipError.summary faults)

/// Trains in a folder unless that is done: from the start, or from its latest checkpoint.
let train
    (output: string)
    (options: TrainingOptions)
    (model: unit -> Checkpoint)
    (lessons: string list)
    : unit =
    if not (File.Exists(Path.Combine(output, "model.safetensors"))) then
        let data = {
            Train = lessons
            Validation = [ validation ]
            ValidationShare = 0.0
            Bos = true
            Eos = true
            Special = true
        }

        use session =
            if (TrainingCheckpoint.all output).IsEmpty then
                TrainingSession.start output options Ranks.alone (model ()) data |> orStop
            else
                TrainingSession.resume output Ranks.alone device |> orStop

        follow session

let common recipe = { TrainingOptions.standard recipe with Precision = passes; Seed = 1L }

// Not after every part of the run: each checkpoint of the teller takes 1.6 GB.
let tellerOptions = {
    common (Recipe.tryPreset "plain" 30 |> orStop) with
        Steps = 300
        BatchSize = 8
        // Packed, most samples would begin inside a story, and so would what it tells.
        Layout = Layout.Each
        SequenceLength = 384
        Rate = { Peak = 2e-4; Warmup = 15; Floor = 0.1 }
        ValidateEvery = 50
        SaveEvery = 150
        Keep = 1
}

/// SmolLM2-135M-Instruct after two readings and a half of the thousand stories by people: it writes more of their kind.
let teller () =
    let folder = Path.Combine(run, "teller")

    train
        folder
        tellerOptions
        (fun () ->
            let path = given.Path "--teller"
            Checkpoint.load path (Some Dtype.F32) device |> orStop)
        [ people ]

    Checkpoint.load folder (Some passes) device |> orStop

/// Stories that a model tells, all at once, from openings of one length: sampled at a temperature, from tokens that are at
/// least `least` times as likely as the likeliest. Those without an end within `length` tokens are not told.
let tell
    (model: Checkpoint)
    (seed: int64)
    (openings: int[][])
    (length: int)
    temperature
    (least: float)
    : string[] =
    use _noGrad = Scope.noGrad ()
    use _scope = Scope.start ()
    let weights, config = Weights.withoutKernels model.Weights, model.Config
    let tokenizer = Option.get model.Tokenizer
    let eos = Option.get (Tokenizer.eos tokenizer)
    let count, opened = openings.Length, openings[0].Length
    let place = weights.Embedding.device
    let dtype = ScalarType.activations weights.Device weights.Dtype
    torch.random.manual_seed seed |> ignore
    let rope = Rope.table config length dtype place

    let slabs () = [|
        for _ in 1 .. config.Layers ->
            torch.empty (
                [| int64 count; int64 config.KvHeads; int64 length; int64 config.HeadDim |],
                Nullable dtype,
                place
            )
    |]

    let keys, values = slabs (), slabs ()

    let store (position: int) : KvStore =
        fun layer k v ->
            let append (slab: Tensor) (fresh: Tensor) =
                slab.narrow(2L, int64 position, 1L).copy_ fresh |> ignore
                slab.narrow (2L, 0L, int64 position + 1L)

            struct (append keys[layer] k, append values[layer] v)

    let ids = torch.zeros ([| int64 count; int64 length + 1L |], torch.ScalarType.Int64, place)

    ids
        .narrow(1L, 0L, int64 opened)
        .copy_(Tensors.ofIds [| int64 count; int64 opened |] (Array.concat openings))
    |> ignore

    for position in 0 .. length - 1 do
        use _step = Scope.start ()

        let hidden =
            Decoder.embed weights (ids.narrow (1L, int64 position, 1L))
            |> Decoder.runLayers Decoder.plain (store position) rope weights 0 config.Layers position

        // The rest of the opening is there already.
        if position >= opened - 1 then
            let logits =
                (SharedHead.logits weights hidden).view(int64 count, -1L).``to``(torch.ScalarType.Float32)
                |> Scalars.timesInPlace (1.0 / temperature)

            let behind = Scalars.plus logits (logits.amax([| 1L |], true).neg())
            let unlikely = behind.lt (Scalars.ofFloat (log least))

            let law = behind.masked_fill(unlikely, Scalars.ofFloat Double.NegativeInfinity).softmax 1L

            ids.narrow(1L, int64 position + 1L, 1L).copy_(law.multinomial 1L) |> ignore

    let flat = Tensors.toIds ids

    [|
        for story in 0 .. count - 1 do
            let told = flat[story * (length + 1) + 1 .. (story + 1) * (length + 1) - 1]

            match Array.tryFindIndex ((=) eos) told with
            | Some last -> (Tokenizer.decode false tokenizer told[.. last - 1]).Trim()
            | None -> ()
    |]

/// Of the runs of four words, the share that are not said again.
let variety (story: string) =
    let runs = story.Split(Array.empty<char>, StringSplitOptions.RemoveEmptyEntries) |> Array.windowed 4
    float (Array.distinct runs).Length / float (max 1 runs.Length)

/// The stories of the teller, in a file; without those that go round in circles or hardly begin.
let told () =
    match given.TryText "--told" with
    | Some path -> Check.all (Texts.check path) path |> orStop
    | None ->
        let path = Path.Combine(run, "told.txt")

        if not (File.Exists path) then
            use teller = teller ()
            let atOnce = if isGpu then 4096 else 64
            let clock = Diagnostics.Stopwatch.StartNew()
            use file = new StreamWriter(path + ".part")
            let mutable written, batch = 0, 0
            let bos = Tokenizer.bos (Option.get teller.Tokenizer) |> Option.get
            let openings = Array.create atOnce [| bos |]

            while written < storyCount && not stopped do
                for story in tell teller (int64 batch) openings 320 temperature 0.05 do
                    if story.Length > 200 && variety story >= 0.95 then
                        file.Write story
                        file.Write "\n<|endoftext|>\n"
                        written <- written + 1

                if written = 0 then
                    stop 1 "the teller ends no story; give another --teller"

                batch <- batch + 1
                printfn "told %d stories, %.0f a minute" written (float written / clock.Elapsed.TotalMinutes)

            if stopped then
                printfn "stopped; the same command tells again from the start"
                exit 130

            file.Close()
            File.Move(path + ".part", path)

        path

let lessons = told ()
let tokenizer = Path.Combine(run, "tokenizer")

if not (File.Exists(Path.Combine(tokenizer, "tokenizer.json"))) then
    let texts =
        [ people; lessons ]
        |> Seq.collect (Texts.read >> Seq.truncate 20000)
        |> Seq.map (Lesson.texts >> String.concat "")

    let trained = BpeTrainer.train (BpeOptions.ofVocabulary 1024) texts |> orStop
    BpeTrainer.write tokenizer trained |> orStop
    printfn "tokenizer: %.2f bytes a token" (float trained.Bytes / float trained.Tokens)

/// Deep and narrow, with a small head: two of twenty-four layers draft.
let config =
    let sizes =
        LlamaConfig.Llama(1024, 24, hidden = 192, intermediate = 512, heads = 3, kvHeads = 1, context = 512)

    { sizes with TiedHead = true; Bos = Some 0; StopIds = [| 0 |] }

/// Self-distillation of the exits that draft; or the paper's recipe for a training from scratch.
let recipe =
    match recipeName with
    | "default" -> {
        Dropout = 0.0
        Depth = DropoutShape.Exponential
        Time = DropoutShape.Constant
        Exits = ExitRule.Emphasis([ 2, 0.7; 1, 0.1; 3, 0.1; 4, 0.1 ], 1)
        Targets = { Labels = 0.0; LastLayer = 1.0 }
      }
    | _ -> Recipe.tryPreset "scratch" config.Layers |> orStop

/// 32,768 tokens a step.
let options = {
    common recipe with
        Steps = steps
        BatchSize = (if isGpu then 64 else 8)
        Accumulate = (if isGpu then 1 else 8)
        SequenceLength = 512
        Rate = { Peak = given.Real "--rate"; Warmup = min 200 (steps / 4); Floor = 0.02 }
        ValidateEvery = 200
        ValidationTokens = (if isGpu then 130816 else 49056)
        ProbeEvery = steps
        ProbeExits = [ 1; 2; 3; 4 ]
        ProbeDraft = 3
        SaveEvery = 500
        Keep = 1
}

let model () =
    let weights = Weights.initial 1L Dtype.F32 device config
    let vocabulary = Tokenizer.tryLoad tokenizer |> orStop
    { Checkpoint.ofWeights tokenizer weights vocabulary with Recommended = Some(2, 3) }

let trained = Path.Combine(run, "trained")

// What people wrote twice: it is a hundredth of what the teller wrote.
train trained options model [ people; people; lessons ]

/// The told stories that say no four words twice.
let plain =
    lazy
        (Texts.read lessons
         |> Seq.choose (fun lesson ->
             match lesson with
             | Lesson.Text story when variety story = 1.0 -> Some(story.Trim())
             | _ -> None)
         |> Array.ofSeq)

let sentence = Regex @"[^.!?]+[.!?]+[""']*"

/// A story in which somebody says one or two sentences once or twice more, up to there; and how it goes on all the same.
let stuttered (number: int) (story: string) : (string * string) option =
    let sentences = sentence.Matches story |> Array.ofSeq

    if sentences.Length < 6 then
        None
    else
        let last = sentences[2 + number % (sentences.Length - 4)]
        let first = sentences[Array.IndexOf(sentences, last) - (if number % 3 = 0 then 1 else 0)]
        let upTo = last.Index + last.Length
        let block = " " + story[first.Index .. upTo - 1].Trim()
        Some(story[.. upTo - 1] + String.replicate (1 + number % 2) block, story[upTo..])

/// `plain` as it is, and every second story stuttered; only how that goes on is learned.
let escapes =
    let path = Path.Combine(run, "plain.jsonl")

    if not (File.Exists path) then
        let line (value: obj) = JsonSerializer.Serialize value

        let lines = [|
            for number, story in Array.indexed plain.Value do
                line {| text = story |}

                if number % 2 = 0 then
                    match stuttered (number / 2) story with
                    | Some(prompt, response) -> line {| prompt = prompt; response = response |}
                    | None -> ()
        |]

        File.WriteAllLines(path + ".part", lines)
        File.Move(path + ".part", path)

    path

/// 2,048 tokens a step, for two cores.
let settling = {
    options with
        Seed = 2L
        Steps = given.Whole("--settle", 1)
        BatchSize = 4
        Accumulate = 1
        Rate = { Peak = 6e-4; Warmup = 50; Floor = 0.02 }
        ValidateEvery = 300
        ValidationTokens = 24528
        ProbeEvery = 300
        SaveEvery = 300
}

let settled = Path.Combine(run, "settled")

// Greedy texts of a small model come back to what they said, over and over. Here the model sees only stories that do not,
// and learns to go on where somebody did.
train settled settling (fun () -> Checkpoint.load trained (Some Dtype.F32) device |> orStop) [
    escapes
    people
]

/// What the model itself tells at a low temperature, nearly its greedy texts, from the openings of told stories; kept
/// where it says hardly any four words twice (expert iteration).
let own =
    let path = Path.Combine(run, "own.txt")

    if not (File.Exists path) then
        use teller = Checkpoint.load settled (Some passes) device |> orStop
        let tokenizer = Option.get teller.Tokenizer

        let openings =
            plain.Value
            |> Seq.map (Tokenizer.encode tokenizer >> Array.truncate 20)
            |> Seq.filter (fun ids -> ids.Length = 20)
            |> Seq.distinct
            |> Seq.truncate (given.Whole("--own", 1))
            |> Array.ofSeq

        let kept =
            Array.chunkBySize 256 openings
            |> Array.indexed
            |> Array.collect (fun (batch, openings) ->
                let stories = tell teller (int64 batch) openings 320 0.5 0.02
                let kept = stories |> Array.filter (fun story -> variety story >= 0.97)
                printfn "told %d stories of its own, kept %d" openings.Length kept.Length

                if stopped then
                    exit 130

                kept)

        File.WriteAllText(path, String.Join("\n<|endoftext|>\n", kept))

    path

let finishing = {
    settling with
        Seed = 3L
        Steps = given.Whole("--finish", 1)
        Rate = { Peak = 2e-4; Warmup = 20; Floor = 0.02 }
        ValidateEvery = 175
        ProbeEvery = 175
        SaveEvery = 175
}

let finished = Path.Combine(run, "finished")

train finished finishing (fun () -> Checkpoint.load settled (Some Dtype.F32) device |> orStop) [ own; people ]

/// The validation entropies of all phases: tokens read, in millions, and each exit's.
let curves = [
    let phases = [ trained, options; settled, settling; finished, finishing ]

    let tokensOf (options: TrainingOptions) = options.BatchSize * options.Accumulate * options.SequenceLength

    let starts = phases |> List.scan (fun sum (_, options) -> sum + options.Steps * tokensOf options) 0

    for (folder, options), before in List.zip phases (List.take phases.Length starts) do
        for line in File.ReadAllLines(Path.Combine(folder, "log.jsonl")) do
            use document = JsonDocument.Parse line

            match document.RootElement.TryGetProperty "validation" with
            | true, found ->
                let step = (document.RootElement.GetProperty "step").GetInt32()

                float (before + step * tokensOf options) / 1e6,
                [ for entry in found.EnumerateObject() -> entry.Value.GetDouble() ]
            | _ -> ()
]

let made = Path.Combine(run, "stories-10m")

if not (Directory.Exists made) then
    use last = Checkpoint.load finished (Some Dtype.BF16) Device.Cpu |> orStop
    Export.write ExportFormat.HuggingFace last.Config.Layers made last |> orStop |> ignore

let picture =
    Picture.marks
        "Validation of stories-10m in training"
        "TinyStories, texts that were held out; exits after layers 1, 2 and 4, and the last layer"
        "How well each exit tells the next token, as training reads more."
        (Axis.linear "tokens read" "millions")
        (Axis.linear "cross entropy" "nats a token")
        [
            for exit in [ 1; 2; 4 ] do
                Mark.Line(
                    $"exit {exit}",
                    curves |> List.map (fun (tokens, entropies) -> tokens, entropies[exit - 1])
                )

            Mark.Line(
                "last layer",
                curves |> List.map (fun (tokens, entropies) -> tokens, List.last entropies)
            )
        ]

Plots.save (Path.Combine(made, "curves.svg")) "" [ PagePart.Drawn picture ] |> orStop

printfn "the model: %s" made
#endif
