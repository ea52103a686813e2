// Continual pretraining of a model that was never trained to exit early (stories260K) with a LayerSkip recipe, measured
// before and after at each exit: cross entropy, agreement with the last layer, accepted share of drafted tokens.
//
//     dotnet fsi scripts/continual-stories260k.fsx
//     dotnet fsi scripts/continual-stories260k.fsx --model DIR --text DIR --run DIR --share 0.01
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "../shared/data/stories260K"
        "--text DIR", "../shared/data/text"
        "--run DIR", "runs/stories260k"
        "--share S", "1.0"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.IO
open LayerSkip

let text = given.Path "--text"
let run = given.Path "--run"
/// A share of all the work, for a try.
let share = given.Real "--share"
let scaled (count: int) = max 1 (int (float count * share))

let model = Checkpoint.load (given.Path "--model") (Some Dtype.F32) Device.Cpu |> orStop

let tokenizer =
    match model.Tokenizer with
    | Some tokenizer -> tokenizer
    | None -> stop 2 "the model has no tokenizer"

let layers = model.Config.Layers

/// The first validation stories, each with BOS, cut at the context.
let stories =
    Texts.read (Path.Combine(text, "tinystories-valid.txt"))
    |> Seq.choose (fun lesson ->
        match lesson with
        | Lesson.Text story -> Some(Tokenizer.encode tokenizer story |> Array.truncate model.Config.Context)
        | Lesson.Pair _
        | Lesson.Chat _ -> None)
    |> Seq.truncate 100
    |> Array.ofSeq

/// Of each exit: cross entropy in nats, and how often it says what the last layer says.
let measure (weights: Weights) : (float * float)[] =
    let entropies, agreed = Array.zeroCreate layers, Array.zeroCreate layers
    let mutable count = 0

    for ids in stories do
        let choices = Array.create layers [||]

        Scope.free (fun () ->
            Tensors.ofIds [| 1L; int64 ids.Length |] ids
            |> Decoder.exits weights (fun exit logits ->
                let law = logits.log_softmax (-1L)
                let labels = (Tensors.ofIds [| 1L; int64 (ids.Length - 1); 1L |] ids[1..])
                let picked = law.narrow(1L, 0L, int64 (ids.Length - 1)).gather(2L, labels)
                entropies[exit - 1] <- entropies[exit - 1] - Array.sum (Tensors.toFloats picked)
                choices[exit - 1] <- Tensors.toIds (logits.argmax -1L) |> Array.truncate (ids.Length - 1)))

        for layer in 0 .. layers - 1 do
            let same = Array.map2 (=) choices[layer] choices[layers - 1] |> Array.filter id
            agreed[layer] <- agreed[layer] + float same.Length

        count <- count + ids.Length - 1

    Array.map2 (fun entropy same -> entropy / float count, same / float count) entropies agreed

let accepted (weights: Weights) (exit: int) =
    Training.acceptance weights exit 4 100 (stories |> Array.truncate 20 |> Array.map (Array.truncate 8))

let table (title: string) (weights: Weights) =
    printfn "%s\n| exit | cross entropy | agreement | accepted at d = 4 |\n|---|---|---|---|" title

    for exit, (entropy, agreement) in measure weights |> Array.indexed do
        let share =
            if exit + 1 < layers then
                $"%.1f{100.0 * accepted weights (exit + 1)} %%"
            else
                ""

        printfn "| %d | %.4f | %.1f %% | %s |" (exit + 1) entropy (100.0 * agreement) share

table "before" model.Weights

let recipe (exits: string) = {
    (Recipe.tryPreset "self-distillation" layers |> orStop) with
        Exits = ExitRule.tryParse exits |> orStop
        Targets = { Labels = 0.5; LastLayer = 0.5 }
}

/// A part of the run: its folder's name, how far its cosine reaches, where it ends, the highest rate, and the exits.
type Phase = { Name: string; Cosine: int; Steps: int; Rate: float; Exits: string }

/// Exit 3, which drafts, learns first and fast; then it weighs less, and the last layer finds its way back.
let phases = [
    {
        Name = "learn"
        Cosine = 6000
        Steps = 3250
        Rate = 1.5e-3
        Exits = "emphasis:3=0.25,4=0.6:1"
    }
    {
        Name = "settle"
        Cosine = 2800
        Steps = 2800
        Rate = 1e-3
        Exits = "emphasis:3=0.12,4=0.6:1"
    }
]

let options (phase: Phase) = {
    TrainingOptions.standard (recipe phase.Exits) with
        Steps = scaled phase.Cosine
        BatchSize = 12
        // A story a sample, from its first word and as long as the context: as it is measured, and as it is read.
        SequenceLength = model.Config.Context
        Layout = Layout.Each
        Rate = { Peak = phase.Rate; Warmup = 50; Floor = 0.05 }
        Adam = { AdamW.standard with WeightDecay = 0.01 }
        ValidateEvery = 250
        ValidationTokens = 36000
        SaveEvery = 250
}

/// Stories that the model itself writes at temperature 1, unfiltered: on them its last layer is right already, so that
/// learning them keeps it as it is while the early layers learn. There are not enough stories of people for that.
let samples =
    let path = Path.Combine(run, "samples.tokens")
    let count = scaled 24000

    let story (number: int) =
        let options = {
            GenerationOptions.greedy Strategy.Autoregressive (model.Config.Context - 1) with
                Sampling = Sampling.create 1.0 0 1.0 |> orStop
                // llama2.c parts stories by BOS.
                StopIds = Option.toArray (Tokenizer.bos tokenizer)
                Seed = int64 number
        }

        let bos = Option.toArray (Tokenizer.bos tokenizer)
        Array.append bos (Generation.complete model.Weights None options bos |> orStop).TokenIds

    if not (File.Exists path) then
        Directory.CreateDirectory run |> ignore
        // A story a thread: the kernels of one so small have nothing to share.
        Array.Parallel.init count story |> TokenFile.write path |> orStop |> ignore

    path

let data = {
    Train = [ Path.Combine(text, "tinystories-train.txt"); samples ]
    Validation = [ Path.Combine(text, "tinystories-valid.txt") ]
    ValidationShare = 0.0
    Bos = true
    // llama2.c, which made the model, has no mark after a story.
    Eos = false
    Special = true
}

let follow (phase: Phase) (session: TrainingSession) =
    let made = ref session.Trainee.Step

    for event in TrainingSession.run (fun () -> made.Value >= scaled phase.Steps) session do
        match event with
        | TrainingEvent.Stepped report -> made.Value <- report.Step
        | TrainingEvent.Validated(step, entropies) ->
            let listed = entropies |> Array.mapi (fun i e -> $"{i + 1}: %.3f{e}") |> String.concat "  "
            eprintfn "%s, step %d  %s" phase.Name step listed
        | TrainingEvent.Ended(_, TrainingEnd.Failed fault) -> stop 1 $"step {fault.Step}: {fault.What}"
        | TrainingEvent.Ended(_, TrainingEnd.Unwritable faults) -> stop 1 (LayerSkipError.summary faults)
        | TrainingEvent.Ended _
        | TrainingEvent.Probed _
        | TrainingEvent.Saved _ -> ()

/// Makes a phase, or what is left of it; its weights.
let trained (weights: Weights) (phase: Phase) : Weights =
    let output = Path.Combine(run, phase.Name)
    let checkpoints () = TrainingCheckpoint.all output

    let isOver () =
        match checkpoints () with
        | (step, _) :: _ -> step >= scaled phase.Steps
        | [] -> false

    if not (isOver ()) then
        use session =
            if (checkpoints ()).IsEmpty then
                let start = { model with Weights = weights; Recommended = Some(3, 4) }
                TrainingSession.start output (options phase) Ranks.alone start data |> orStop
            else
                TrainingSession.resume output Ranks.alone Device.Cpu |> orStop

        follow phase session

    let _, latest = List.head (checkpoints ())
    (Checkpoint.load latest (Some Dtype.F32) Device.Cpu |> orStop).Weights

let finished = List.fold trained model.Weights phases

table "after" finished
printfn
    "the model: %s"
    (snd (List.head (TrainingCheckpoint.all (Path.Combine(run, (List.last phases).Name)))))
#endif
