module LayerSkip.Tests.ReadoutTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny

Backend.ensure ()

/// Hidden states after every layer of a text.
let private statesOf (weights: Weights) (ids: int[]) (body: ExitStates[] -> 'T) : 'T =
    use _inference = Scope.inference ()
    let cache = Cache.create weights weights.Config.Layers ids.Length
    use _storage = cache.Slab
    let states = ResizeArray()

    let visit layer hidden = states.Add(ExitStates.ofHidden layer hidden)

    Model.forwardEach weights ids.Length ids visit cache |> ignore
    body (states.ToArray())

/// The logits of each row.
let private logitsOf (weights: Weights) (states: ExitStates) : float[][] =
    Scope.free (fun () -> SharedHead.logits weights states.States |> Tensors.toFloats)
    |> Array.chunkBySize weights.Config.Vocabulary

// The definitions, written down once more and slowly.

let private logLaw (logits: float[]) =
    let largest = Array.max logits
    let total = logits |> Array.sumBy (fun logit -> exp (logit - largest))
    logits |> Array.map (fun logit -> logit - largest - log total)

let private order (logits: float[]) = [| 0 .. logits.Length - 1 |] |> Array.sortBy (fun id -> -logits[id], id)

let private close (tolerance: float) (expected: float) (found: float) what =
    Expect.isLessThanOrEqual (abs (expected - found)) (tolerance * (1.0 + abs expected)) what

let private agree tolerance (logits: float[]) (targets: int[]) (row: ExitRow) =
    let law, order = logLaw logits, order logits
    Expect.equal row.Argmax order[0] "the argmax, the lowest of equal ones"
    close tolerance (exp law[order[0]]) row.Probability "confidence"
    close tolerance (law |> Array.sumBy (fun p -> -p * exp p)) row.Entropy "entropy"
    close tolerance (logits[0] - law[0]) row.LogSumExp "log-sum-exp"
    Expect.equal (row.Top |> Array.map _.Id) (Array.truncate row.Top.Length order) "the most probable"

    for top in row.Top do
        close tolerance (exp law[top.Id]) top.Probability "a probability"

    Expect.equal (row.Targets |> Array.map _.Id) targets "the targets"

    for target in row.Targets do
        close tolerance law[target.Id] target.LogProbability "a target's log-probability"
        Expect.equal target.Rank (1 + Array.IndexOf(order, target.Id)) "its rank"

let private largeRows (count: int) (seed: int) =
    let random = Random seed
    // Of few values, so that many are equal.
    Array.init count (fun _ ->
        float (random.Next(-4, 5)) + (if random.Next 4 = 0 then random.NextDouble() else 0.0))

let private kinds = [ Dtype.F64; Dtype.F32 ]

let private tolerance = 1e-12

[<Tests>]
let tests =
    testSequenced
    <| testList "readout" [
        testPropertyWithConfig
            (settings 30)
            "of every exit and row, what float64 says one number at a time"
            (fun (case: Case) ->
                for dtype in kinds do
                    withWeights dtype case.Model (fun weights ->
                        statesOf weights case.Prompt (fun exits ->
                            let targets = case.Prompt |> Array.map (fun id -> [| id; 23 - id |])
                            let asked =
                                Array.init exits.Length (fun exit -> {
                                    Top = exit * 4
                                    Targets = if exit = 0 then [||] else targets
                                })

                            for exit, ask in Array.zip exits asked do
                                let found, logits = Readout.rows weights ask exit, logitsOf weights exit
                                Expect.equal found.Length case.Prompt.Length "a row for each position"

                                for row in 0 .. found.Length - 1 do
                                    let targets = if ask.Targets.Length = 0 then [||] else targets[row]
                                    agree tolerance logits[row] targets found[row]
                                    Expect.equal found[row].Top.Length ask.Top "as many as asked for"

                                    if ask.Top > 0 then
                                        let all = Readout.rows weights { ask with Top = 24 } exit
                                        close
                                            tolerance
                                            1.0
                                            (all[row].Top |> Array.sumBy _.Probability)
                                            "sums to 1")))

        testPropertyWithConfig
            (settings 30)
            "beside the last layer: its divergence, rank and probability of the last one's choice"
            (fun (case: Case) ->
                for dtype in kinds do
                    withWeights dtype case.Model (fun weights ->
                        statesOf weights case.Prompt (fun exits ->
                            let ask = { Top = 3; Targets = [||] }
                            let found = Readout.compared weights ask exits
                            let lasts = logitsOf weights (Array.last exits)

                            for exit, rows in Array.zip exits found do
                                let logits = logitsOf weights exit

                                Expect.equal
                                    (rows |> Array.map _.Row)
                                    (Readout.rows weights ask exit)
                                    "rows as by themselves"

                                for index in 0 .. rows.Length - 1 do
                                    let p, q = logLaw lasts[index], logits[index]
                                    let kl =
                                        Array.map2 (fun p q -> exp p * (p - q)) p (logLaw q) |> Array.sum
                                    close tolerance kl rows[index].Kl "KL(last || exit)"
                                    let final = (order p)[0]
                                    let reading = rows[index].Final
                                    Expect.equal reading.Id final "the last one's choice"
                                    Expect.equal
                                        reading.Rank
                                        (1 + Array.IndexOf(order q, final))
                                        "its rank"
                                    close
                                        tolerance
                                        (logLaw q).[final]
                                        reading.LogProbability
                                        "its probability"

                            for row in Array.last found do
                                Expect.equal
                                    (row.Kl, row.Final.Rank)
                                    (0.0, 1)
                                    "the last layer beside itself"
                                Expect.equal row.Final.Id row.Row.Argmax "its own choice")))

        testPropertyWithConfig
            (settings 20)
            "an exit's choice is what decoding's head makes of its hidden state"
            (fun (case: Case) ->
                withWeights Dtype.F32 case.Model (fun weights ->
                    let choices = ResizeArray()
                    use _inference = Scope.inference ()
                    let cache = Cache.create weights weights.Config.Layers case.Prompt.Length
                    use _storage = cache.Slab

                    Model.forwardEach
                        weights
                        case.Prompt.Length
                        case.Prompt
                        (fun _ hidden -> choices.Add(Logits.argmax (Model.logits hidden)))
                        cache
                    |> ignore

                    let read =
                        statesOf
                            weights
                            case.Prompt
                            (Array.map (Readout.rows weights Readout.choices >> Array.map _.Argmax))
                    Expect.equal read (choices.ToArray()) "exits and positions"))

        testProperty
            "a law of any width: ties, ranks and sums, whole vectors or not"
            (fun (seed: int) (size: FsCheck.PositiveInt) ->
                let size = 1 + size.Get % 300
                let logits = largeRows size seed
                let padded = Array.append logits (Array.create (RowLaw.room size - size) nan)
                let law = RowLaw.ofLogits padded (Array.zeroCreate padded.Length) size
                let order = order logits
                Expect.equal law.Argmax order[0] "argmax"
                Expect.equal (TopK.first size size padded) order "all in order"
                Expect.equal
                    [| for id in 0 .. size - 1 -> order[RowLaw.rank id law - 1] |]
                    [| 0 .. size - 1 |]
                    "ranks"
                close
                    1e-13
                    1.0
                    (Seq.sum [ for id in 0 .. size - 1 -> RowLaw.probability id law ])
                    "probabilities"
                Expect.equal (RowLaw.divergence law law) 0.0 "no divergence from itself")

        testCase "extreme logits keep their meaning, and what is not finite is found" (fun () ->
            let law (logits: float[]) =
                let padded =
                    Array.append logits (Array.create (RowLaw.room logits.Length - logits.Length) nan)
                RowLaw.ofLogits padded (Array.zeroCreate padded.Length) logits.Length

            let far = law [| -1e30; 3e38; 1e5; -3e38; 0.0 |]
            Expect.equal (far.Argmax, RowLaw.probability 1 far, far.Entropy) (1, 1.0, 0.0) "one has it all"
            Expect.equal (RowLaw.rank 3 far) 5 "the last"
            Expect.isTrue (RowLaw.isFinite far) "finite"

            for bad in [ nan; infinity; -infinity ] do
                for at in [ 0; 3; 8 ] do
                    let logits = Array.init 9 (fun id -> if id = at then bad else 1.0)
                    Expect.isFalse (RowLaw.isFinite (law logits)) $"{bad} at {at}")

        testCase
            "many rows are read by pieces, to the bits of one at a time, and leave nothing behind"
            (fun () ->
                let model = { Config = Tiny.config 60_000 2 2 1 true; Seed = 3L }
                let ids = Array.init 70 (fun i -> i * 7)

                withWeights Dtype.BF16 model (fun weights ->
                    let ask = { Top = 2; Targets = ids |> Array.map Array.singleton }

                    let read () =
                        statesOf weights ids (fun exits ->
                            let one row exit =
                                (Readout.rows
                                    weights
                                    { ask with Targets = [| [| ids[row] |] |] }
                                    (ExitStates.rows row 1 exit))[0]

                            let all = Readout.rows weights ask exits[0]
                            Expect.equal
                                all
                                (Array.init ids.Length (fun row -> one row exits[0]))
                                "row by row"
                            Readout.compared weights ask exits)

                    let first = read ()
                    let before = liveTensors ()

                    for _ in 1..5 do
                        Expect.equal (read ()) first "the same again"

                    Expect.equal (liveTensors ()) before "no tensor is left"))

        testCase "numbers that overflow are told of with layer and position" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 1L } (fun weights ->
                statesOf weights [| 1; 2; 3 |] (fun exits ->
                    let states = exits[1].States.clone()
                    states.narrow(1L, 2L, 1L).fill_(Scalars.ofFloat nan) |> ignore

                    let broken = { exits[1] with States = states; Start = 4 }

                    let fault =
                        try
                            Readout.rows weights Readout.choices broken |> ignore
                            failtest "read"
                        with :? LayerSkipException as fault ->
                            fault.Message

                    Expect.stringContains fault "the head after layer 2 of 3" "the layer"
                    Expect.stringContains fault "position 6" "the position")))

        testCase "what cannot be asked is a bug of the caller" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 1L } (fun weights ->
                statesOf weights [| 1; 2; 3 |] (fun exits ->
                    for ask in
                        [
                            { Top = -1; Targets = [||] }
                            { Top = 25; Targets = [||] }
                            { Top = 1; Targets = [| [| 1 |] |] }
                            { Top = 1; Targets = [| [||]; [||]; [| 24 |] |] }
                        ] do
                        Expect.throwsT<ArgumentException>
                            (fun () -> Readout.rows weights ask exits[0] |> ignore)
                            $"{ask}"

                    Expect.throwsT<ArgumentException>
                        (fun () -> Readout.compared weights Readout.choices exits[..1] |> ignore)
                        "the last layer is not there")))

        sharedTest
            "log-sum-exp and the 8 most probable after every exit of SmolLM2"
            [ "smollm2-135m-instruct" ]
            (fun folder ->
                let path name = Path.Combine(folder, name)

                use model =
                    Checkpoint.load (path "model.gguf") (Some Dtype.F32) Device.Cpu
                    |> Result.map (Checkpoint.withPrefill Prefill.Exact)
                    |> Check.getOrRaise

                let reference = JsonDocument.Parse(File.ReadAllText(path "reference.json")).RootElement

                for case in (reference.GetProperty "cases").EnumerateArray() do
                    let ids = [|
                        for id in (case.GetProperty "prompt_ids").EnumerateArray() -> id.GetInt32()
                    |]

                    statesOf model.Weights ids (fun exits ->
                        for exit in exits do
                            let expected = (case.GetProperty "exit_top")[exit.Layer - 1]
                            let logits =
                                Map [
                                    for top in expected.EnumerateArray() ->
                                        (top[0]).GetInt32(), (top[1]).GetDouble()
                                ]
                            let ask = { Top = 8; Targets = [| Array.ofSeq logits.Keys |] }
                            let row =
                                (Readout.rows model.Weights ask (ExitStates.rows (ids.Length - 1) 1 exit))[0]
                            let sum = ((case.GetProperty "exit_logsumexp")[exit.Layer - 1]).GetDouble()
                            close 1e-4 sum row.LogSumExp $"log-sum-exp after layer {exit.Layer}"
                            Expect.equal
                                row.Argmax
                                ((expected[0][0]).GetInt32())
                                $"the argmax after layer {exit.Layer}"

                            for target in row.Targets do
                                close
                                    1e-3
                                    (logits[target.Id] - sum)
                                    target.LogProbability
                                    $"layer {exit.Layer}"
                                // Rounding may swap two that are nearly equal.
                                Expect.isLessThan target.Rank 11 $"one of the 8 after layer {exit.Layer}"))
    ]
