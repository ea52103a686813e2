// What sibling candidates would gain (early-exit trees that ride along: an exit's second choices at some of the drafted places,
// as rows of the pass that verifies the drafts). From one greedy decoding of each prompt that keeps an exit's three likeliest
// tokens at every position, and from passes timed with and without the extra rows: how often the first refused draft's second or third
// choice is the whole model's token, what a row costs, and the tokens a millisecond with siblings over those without. A sibling
// that is kept yields one token more, as its own row says what follows it.
//
//     dotnet fsi scripts/siblings.fsx
//     dotnet fsi scripts/siblings.fsx --model DIR --exit-layers 2,3 --draft-lengths 2,3,4 --prompts N --max-new-tokens N --threads N
#load "options.fsx"
#load "kinds.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--text DIR", "../shared/data"
        "--exit-layers 1,2,3", "the model's own, and those beside it"
        "--draft-lengths 1,2,3", "1,2,3,4,5,6"
        "--prompts N", "6"
        "--prompt-tokens N", "48"
        "--max-new-tokens N", "128"
        "--samples N", "600"
        "--threads N", "one for each core"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let weights, layers = model.Weights, model.Config.Layers
let limit, samples = given.Whole("--max-new-tokens", 2), given.Whole("--samples", 3)

let numbers (name: string) (fallback: int list) =
    given.TryWholes(name, 1, Int32.MaxValue) |> Option.defaultValue fallback

let ownExit, ownLength = Checkpoint.exitAndDraft model

let exits =
    [ ownExit - 1; ownExit; ownExit + 1; ownExit + 2 ]
    |> List.filter (fun exit -> exit > 0 && exit < layers)
    |> numbers "--exit-layers"

let lengths = numbers "--draft-lengths" [ 1..6 ]

for exit in exits do
    ExitLayer.TryCreate(layers, exit) |> orStop |> ignore

let tokenizer =
    match model.Tokenizer with
    | Some tokenizer -> tokenizer
    | None -> stop 2 "the model has no tokenizer"

let length = given.Whole("--prompt-tokens", 1)
let kinds = Kinds.prompts (given.Path "--text") tokenizer (given.Whole("--prompts", 1)) length 0.0

/// A position of a greedy text: the whole model's token, and each exit's three likeliest, the likeliest first.
type Row = { Token: int; Choices: Map<int, (int * float)[]> }

let likeliest (logits: float[]) =
    let law = Sampling.softmax logits
    let best = Array.create 3 (-1, -1.0)

    for id in 0 .. law.Length - 1 do
        if law[id] > snd best[2] then
            let place =
                if law[id] > snd best[0] then 0
                elif law[id] > snd best[1] then 1
                else 2
            for later in 2 .. -1 .. place + 1 do
                best[later] <- best[later - 1]
            best[place] <- id, law[id]

    best

let trace (prompt: int[]) : Row[] =
    let start = Cache.create weights layers (prompt.Length + limit)
    use _storage = start.Slab :> IDisposable

    let read struct (hidden, cache) = struct ((Model.logits hidden |> Logits.argmax)[0], cache)

    let step (cache: Cache, last) =
        let choices = ResizeArray<int * (int * float)[]>()

        let look layer hidden =
            if List.contains layer exits then
                choices.Add(layer, Model.logits hidden |> Logits.toFloats |> Array.head |> likeliest)

        let struct (token, cache) =
            Scope.free (fun () -> Model.forwardEach weights 1 [| last |] look cache |> read)
        { Token = token; Choices = Map.ofSeq choices }, (cache, token)

    let struct (first, cache) = Scope.free (fun () -> Model.forward weights 1 prompt start |> read)
    [ 1 .. limit - 1 ]
    |> List.mapFold (fun state _ -> step state) (cache, first)
    |> fst
    |> Array.ofList

/// Where siblings stand: how many, and which of an exit's choices at which drafted place, by what the exit itself gives them.
[<RequireQualifiedAccess>]
type Siblings =
    | None
    /// So many, where second and third choices are likeliest to follow right drafts.
    | Likeliest of int
    /// The likeliest one, in rounds where its chance is at least so much.
    | Above of float
    /// The second choice at every place.
    | Every
    /// One row in the rounds where its token is kept, and no row in others: no rule can do better with one.
    | Oracle

/// Tokens, rounds, extra rows, first refusals, and those of them that the second or third choice would have saved.
type Outcome = { Tokens: int; Rounds: int; Rows: int; Refused: int; Second: int; Third: int; Kept: int }

let simulate exit drafts siblings (rows: Row[]) : Outcome =
    let rec round at (sum: Outcome) =
        if at + drafts + 1 >= rows.Length then
            sum
        else
            let choice place number = rows[at + place].Choices[exit][number]
            let isRight place number = fst (choice place number) = rows[at + place].Token
            let kept = Seq.init drafts id |> Seq.takeWhile (fun place -> isRight place 0) |> Seq.length
            let refused = kept < drafts

            // What the exit makes of a candidate: that all drafts before it are right, and it in place of its own.
            let chance (place, number) =
                (Seq.init place (fun before -> snd (choice before 0)) |> Seq.fold (*) 1.0)
                * snd (choice place number)

            let likeliest = List.allPairs [ 0 .. drafts - 1 ] [ 1; 2 ] |> List.sortByDescending chance

            let standing =
                match siblings with
                | Siblings.None -> []
                | Siblings.Every -> [ for place in 0 .. drafts - 1 -> place, 1 ]
                | Siblings.Likeliest n -> likeliest |> List.truncate n
                | Siblings.Above least ->
                    likeliest |> List.truncate 1 |> List.filter (fun candidate -> chance candidate >= least)
                | Siblings.Oracle ->
                    [ 1; 2 ]
                    |> List.filter (fun number -> refused && isRight kept number)
                    |> List.map (fun number -> kept, number)

            let saved =
                refused
                && standing |> List.exists (fun (place, number) -> place = kept && isRight kept number)
            let made = kept + (if saved then 2 else 1)
            let one holds = if holds then 1 else 0

            round (at + made) {
                Tokens = sum.Tokens + made
                Rounds = sum.Rounds + 1
                Rows = sum.Rows + standing.Length
                Refused = sum.Refused + one refused
                Second = sum.Second + one (refused && isRight kept 1)
                Third = sum.Third + one (refused && isRight kept 2)
                Kept = sum.Kept + one saved
            }

    round 0 { Tokens = 0; Rounds = 0; Rows = 0; Refused = 0; Second = 0; Third = 0; Kept = 0 }

let total (outcomes: Outcome list) =
    outcomes
    |> List.reduce (fun a b -> {
        Tokens = a.Tokens + b.Tokens
        Rounds = a.Rounds + b.Rounds
        Rows = a.Rows + b.Rows
        Refused = a.Refused + b.Refused
        Second = a.Second + b.Second
        Third = a.Third + b.Third
        Kept = a.Kept + b.Kept
    })

// What passes take: layers and head by the number of rows, and an exit's draft. Interleaved, and lower deciles: what else runs on
// the machine only adds.

let decile (values: float seq) =
    let sorted = Array.sort (Array.ofSeq values)
    sorted[sorted.Length / 10]

let context = length + limit / 2
let mostRows = 1 + 2 * List.max lengths
let ids rows = Array.init rows (fun i -> (i * 131 + 1) % model.Config.Vocabulary)
let elapsed (since: int64) = Stopwatch.GetElapsedTime(since).TotalMilliseconds

/// A pass of so many rows over a cache that has read the context: milliseconds of its layers, and of norm, head and choice.
let timer exit (read: int[] -> Cache -> struct (Hidden * Cache)) : int -> float * float =
    let mutable cache = Cache.create weights exit (context + mostRows)

    Scope.free (fun () ->
        let struct (_, after) = Model.forward weights 1 (ids context) cache
        cache <- after)

    fun rows ->
        Scope.free (fun () ->
            let started = Stopwatch.GetTimestamp()
            let struct (hidden, after) = read (ids rows) cache
            let layersMs = elapsed started
            Model.logits hidden |> Sampling.verdicts Sampling.Greedy |> ignore
            let ms = elapsed started
            cache <- Cache.truncate context after
            layersMs, ms - layersMs)

let whole = timer layers (fun ids cache -> Model.forward weights ids.Length ids cache)

let drafting = exits |> List.map (fun exit -> exit, timer exit (Model.forwardEarly weights))

let turn () =
    [ for rows in 1..mostRows -> whole rows ],
    // The second of two: the first one finds the processor's caches as the whole model left them.
    [
        for _, draft in drafting do
            draft 1 |> ignore
            let layersMs, headMs = draft 1
            layersMs + headMs
    ]

// Until .NET has compiled all of it for speed, which it does in the background.
let warming = Stopwatch.StartNew()

while warming.ElapsedMilliseconds < 5000L do
    turn () |> ignore
    Threading.Thread.Sleep 100

let turns = List.init samples (fun _ -> turn ())

let layersMs, headMs =
    turns
    |> List.map fst
    |> List.transpose
    |> List.map (fun times -> times |> List.map fst |> decile, times |> List.map snd |> decile)
    |> Array.ofList
    |> Array.unzip

let draftMs =
    turns
    |> List.map snd
    |> List.transpose
    |> List.map2 (fun exit times -> exit, decile times) exits
    |> Map.ofList

let plainMs = layersMs[0] + headMs[0]

printfn "%s, %d threads, %s" (given.Text "--model") (CpuKernels.threads ()) (Benchmark.cpu ())
printfn "a token of plain decoding: %.3f ms; a pass by rows, times that:" plainMs

for rows in 1..mostRows do
    printf "  %d: %.2f" rows ((layersMs[rows - 1] + headMs[rows - 1]) / plainMs)

printfn ""

for exit in exits do
    printfn "a draft by exit %d: %.3f ms" exit draftMs[exit]

/// Between whole numbers of rows on a line.
let at (times: float[]) (rows: float) =
    let below = min (int rows) times.Length
    let above = min (below + 1) times.Length
    times[below - 1] + (rows - float below) * (times[above - 1] - times[below - 1])

/// Milliseconds of rounds with so many rows more on average: those go through the early layers with the last draft, and all rows through
/// the late ones and the head.
let roundMs exit drafts (extra: float) =
    let early = float exit / float layers
    let rows = float (drafts + 1) + extra

    float drafts * draftMs[exit]
    + early * at layersMs (1.0 + extra)
    + (1.0 - early) * at layersMs rows
    + at headMs rows

let speed isFree exit drafts (outcome: Outcome) =
    let rows =
        if isFree then
            0.0
        else
            float outcome.Rows / float outcome.Rounds
    float outcome.Tokens / (float outcome.Rounds * roundMs exit drafts rows)

/// What is compared; of a rule with a threshold the best one in hindsight, for each exit and number of drafts; and one row that
/// costs nothing.
let families = [
    "1 likeliest", speed false, [ Siblings.Likeliest 1 ]
    "2 likeliest", speed false, [ Siblings.Likeliest 2 ]
    "every place", speed false, [ Siblings.Every ]
    "1 where it pays", speed false, [ for percent in 5..5..50 -> Siblings.Above(float percent / 100.0) ]
    "oracle", speed false, [ Siblings.Oracle ]
    "1, free", speed true, [ Siblings.Likeliest 1 ]
]

let grid = List.allPairs exits lengths

for kind, prompts in kinds do
    let rows = prompts |> List.map trace

    let rate speed members (exit, drafts) =
        members
        |> List.map (fun siblings ->
            rows |> List.map (simulate exit drafts siblings) |> total |> speed exit drafts)
        |> List.max

    let without = rate (speed false) [ Siblings.None ]
    let best = List.maxBy without grid

    printfn
        "\n%s: best without siblings E = %d, d = %d, %.2f times plain"
        kind
        (fst best)
        (snd best)
        (plainMs * without best)
    printfn
        "\n| exit | drafts | tokens a round | rounds refused | second right | third right | %s |"
        (families |> List.map (fun (name, _, _) -> name) |> String.concat " | ")
    printfn "|---|---|---|---|---|---|%s" (String.replicate families.Length "---|")

    let shown = best :: (ownExit, ownLength) :: List.allPairs exits [ 1; 3; 5 ]

    for exit, drafts in shown |> List.distinct |> List.filter (fun cell -> List.contains cell grid) do
        let outcome = rows |> List.map (simulate exit drafts Siblings.None) |> total
        let share part whole = $"%.0f{100.0 * float part / float (max 1 whole)} %%"

        let gains =
            families
            |> List.map (fun (_, speed, members) ->
                $"%+.1f{100.0 * (rate speed members (exit, drafts) / without (exit, drafts) - 1.0)} %%")

        printfn
            "| %d | %d | %.2f | %s | %s | %s | %s |"
            exit
            drafts
            (float outcome.Tokens / float outcome.Rounds)
            (share outcome.Refused outcome.Rounds)
            (share outcome.Second outcome.Refused)
            (share outcome.Third outcome.Refused)
            (String.concat " | " gains)

    printfn "\nthe best of each, over exits and drafts, against the best without:"

    for name, speed, members in families do
        let exit, drafts = List.maxBy (rate speed members) grid
        let gain = rate speed members (exit, drafts) / without best - 1.0
        printfn "  %-16s %+.1f %%  (E = %d, d = %d)" name (100.0 * gain) exit drafts
#endif
