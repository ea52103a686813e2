/// Jumps of the loss: what the guard says of them, and what a run does.
module LayerSkip.Tests.SpikeTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TrainingSupport

// ---- the guard

/// What a guard says of losses, one after another, until the run ends.
let private judge (rule: SpikeRule) (losses: float seq) : Judgement list =
    losses
    |> Seq.scan
        (fun (_, guard, isOver) loss ->
            if isOver then
                None, guard, true
            else
                let struct (judgement, guard) = LossGuard.judge rule guard loss 1.0
                Some judgement, guard, judgement.IsEnds)
        (None, LossGuard.start, false)
    |> Seq.choose (fun (judgement, _, _) -> judgement)
    |> List.ofSeq

let private ends rule losses = judge rule losses |> List.exists _.IsEnds

/// Losses of a fine-tuning on answers of one word: next to nothing, and some nats where an answer is another than it seems.
let private shortAnswers (seed: int) (share: float) (count: int) : float[] =
    let random = Random seed

    Array.init count (fun step ->
        let learned = min 1.0 (float step / 40.0)

        if random.NextDouble() < share then
            1.0 + 4.0 * learned * random.NextDouble()
        else
            0.7 * (1.0 - learned) + 0.02 * random.NextDouble())

let private guard =
    testList "the guard" [
        testProperty "low losses with a hard sample now and then stop nothing"
        <| fun (seed: int) -> not (ends SpikeRule.Stop (shortAnswers seed 0.12 3000))

        testProperty "a loss that goes up and stays up ends the run within some steps"
        <| fun (seed: int) (jump: NormalFloat) ->
            let random = Random seed
            let before = Array.init 200 (fun _ -> 2.5 + 0.2 * random.NextDouble())
            let up = 6.0 + min 50.0 (abs (float jump))
            let after = Array.init 40 (fun _ -> up + random.NextDouble())
            let judged = judge SpikeRule.Stop (Array.append before after)
            (List.last judged).IsEnds && judged.Length = 200 + LossGuard.patience

        testCase "a single jump is told, and the next steps go on" (fun () ->
            let losses = Array.concat [ Array.create 100 0.3; [| 9.0 |]; Array.create 100 0.3 ]
            let judged = judge SpikeRule.Stop losses
            let told = List.indexed judged |> List.filter (fun (_, judgement) -> judgement.IsSpiked)
            Expect.equal (List.map fst told) [ 100 ] "the one"
            Expect.equal judged.Length 201 "it goes on")

        testCase "what is no number ends a run at once, but for one that skips, which bears some" (fun () ->
            for loss in [ nan; infinity ] do
                let losses = [ 1.0; 1.0; loss; 1.0 ]
                Expect.equal (judge SpikeRule.Stop losses).Length 3 "stop"
                Expect.equal (judge SpikeRule.Warn losses).Length 3 "warn"
                Expect.isFalse (ends SpikeRule.Skip losses) "skip"
                Expect.isTrue (ends SpikeRule.Skip (List.replicate 20 loss)) "not for ever"

            let struct (judgement, _) = LossGuard.judge SpikeRule.Stop LossGuard.start 1.0 infinity
            Expect.isTrue judgement.IsEnds "a gradient")

        testCase "who is only warned hears of a new level, until it is the measure" (fun () ->
            let judged = judge SpikeRule.Warn (Array.append (Array.create 100 0.5) (Array.create 100 9.0))
            let told = judged |> List.filter _.IsSpiked
            Expect.equal judged.Length 200 "it goes on"
            Expect.equal told.Length LossGuard.patience "then it is the measure")
    ]

// ---- spikes in a run

/// Texts of a rhythm, and one that is nothing like it, which comes at some step of each epoch.
let private withOutlier (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let texts = [
            for _ in 0..30 do
                yield [| for j in 0..8 -> (3 + j) % 5 |]

            yield [| 20; 23; 21; 19; 22; 20; 18; 23; 17 |]
        ]
        TokenFile.write (Path.Combine(folder, "data.tokens")) texts |> ok |> ignore
        body folder)

let private easy = {
    options with
        Steps = 130
        BatchSize = 1
        Layout = Layout.Each
        Rate = { Peak = 0.02; Warmup = 5; Floor = 1.0 }
        SaveEvery = 1000
}

let private spikes =
    testList "spikes" [
        testCase
            "a step that is skipped moves neither weights nor moments nor their counts, only data and rate"
            (fun () ->
                withOutlier (fun folder ->
                    use session = start { easy with OnSpike = SpikeRule.Skip } folder
                    let mutable trainee = session.Trainee
                    let mutable skipped = 0

                    let state () =
                        Seq.append
                            (Weights.tensors trainee.Weights)
                            (AdamWState.TensorsOf trainee.Optimiser)
                        |> bitsOf,
                        trainee.Optimiser.Updates

                    for step in 0 .. easy.Steps - 1 do
                        let before = state ()

                        match Training.step session.Plan trainee with
                        | Ok(struct (report, next)) ->
                            trainee <- next
                            Expect.equal next.Step (step + 1) "it counts"

                            match report.Spike with
                            | Some spike ->
                                skipped <- skipped + 1
                                Expect.isTrue spike.IsSkipped "left out"
                                Expect.equal (state ()) before "as it was"
                            | None -> Expect.notEqual (state ()) before "moved"
                        | Error fault -> failtest fault.What

                    Expect.isGreaterThan skipped 0 "the outlier"))

        testCase
            "a run that skips, parted at any step, is the whole run bit for bit, its guard with it"
            (fun () ->
                for parting in [ 40; 97 ] do
                    withOutlier (fun folder ->
                        let options = { easy with OnSpike = SpikeRule.Skip }
                        use whole = start options folder
                        let told = eventsOf whole |> reports
                        Expect.exists told _.Spike.IsSome "there is something to skip"
                        let data = dataOf (Path.Combine(folder, "data.tokens"))
                        let parted = Path.Combine(folder, "parted")

                        let first =
                            using (tryStart options data parted |> ok) (fun session ->
                                let mutable made = 0

                                [
                                    for event in TrainingSession.run (fun () -> made >= parting) session do
                                        match event with
                                        | TrainingEvent.Stepped report ->
                                            made <- made + 1
                                            report
                                        | _ -> ()
                                ])

                        use second = tryResume parted |> ok
                        let rest = eventsOf second |> reports
                        let known (report: StepReport) = report.Step, report.Sums.Objective, report.Spike
                        Expect.equal
                            (List.map known (first @ rest))
                            (List.map known told)
                            "losses and spikes"

                        let tensors (session: TrainingSession) =
                            Seq.append
                                (Weights.tensors session.Trainee.Weights)
                                (AdamWState.TensorsOf session.Trainee.Optimiser)
                            |> bitsOf

                        Expect.equal (tensors second) (tensors whole) "weights and moments"))

        testCase
            "a run that explodes ends with the weights of before in its latest checkpoint, and goes on from there"
            (fun () ->
                withData (fun folder ->
                    let wild = {
                        options with
                            Steps = 200
                            SaveEvery = 5
                            ClipNorm = 0.0
                            Rate = { Peak = 0.01; Warmup = 0; Floor = 1.0 }
                    }
                    let run = Path.Combine(folder, "run")
                    use calm = start { wild with Steps = 60 } folder
                    eventsOf calm |> ignore
                    (calm :> IDisposable).Dispose()

                    let faster rate (options: TrainingOptions) = {
                        options with
                            Steps = 200
                            Rate = { options.Rate with Peak = rate }
                    }

                    let extend rate = TrainingSession.extend (faster rate) run Ranks.alone Device.Cpu |> ok
                    let events = extend 30.0 |> finish

                    match List.last events with
                    | TrainingEvent.Ended(_, TrainingEnd.Failed fault) ->
                        Expect.stringContains fault.What "stayed up" "why"
                        let firstSpike = (reports events |> List.find _.Spike.IsSome).Step
                        let latest, _ = TrainingCheckpoint.all run |> List.head
                        Expect.isLessThan latest firstSpike "from before the spikes"
                        use gone = extend 0.01
                        Expect.equal gone.Trainee.Step latest "from there"
                        Expect.isTrue ((eventsOf gone |> List.last).IsEnded) "to an end"
                        Expect.equal (TrainingCheckpoint.all run |> List.head |> fst) 200 "the end"
                    | other -> failtest $"{other}"))
    ]

[<Tests>]
let tests = testList "training runs" [ guard; spikes ]
