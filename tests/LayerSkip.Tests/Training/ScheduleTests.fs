module LayerSkip.Tests.ScheduleTests

open Expecto
open FsCheck
open LayerSkip

let private close (what: string) (expected: float list) (found: float list) =
    Expect.equal found.Length expected.Length what

    for index, (a, b) in List.indexed (List.zip expected found) do
        Expect.isLessThan (abs (a - b)) 1e-6 $"{what}, number {index}: {b} instead of {a}"

let private first count (schedule: Schedule) = List.init count schedule

let private shares layers curriculum scale step =
    (ExitShares.tryCreate layers curriculum scale |> Check.getOrRaise) step |> List.ofArray

/// The layers that learn at steps 0, 1, ...
let private sets layers steps (curriculum: Curriculum) =
    List.init steps (fun step ->
        Curriculum.at layers curriculum step
        |> List.ofArray
        |> List.map (fun learns -> if learns then 1 else 0))

let private messages result =
    match result with
    | Ok _ -> failtest "an error was due"
    | Error faults -> LayerSkipError.summary faults

[<Tests>]
let tests =
    testList "schedules" [
        testList "over layers and steps" [
            testCase "D(l) has the paper's values" (fun () ->
                close "L = 4" [ 0.0; 0.259921; 0.587401; 1.0 ] (first 4 (Schedule.exponential 4))

                Schedule.exponential 8
                |> Schedule.scale 0.2
                |> first 8
                |> close "L = 8, p_max 0.2" [
                    0.0
                    0.020818
                    0.043803
                    0.069180
                    0.097199
                    0.128134
                    0.162289
                    0.2
                ])

            testCase
                "the mean of D over 24 to 40 layers is the paper's constant 0.0889 at p_max 0.2"
                (fun () ->
                    for layers in 24..40 do
                        let mean = first layers (Schedule.exponential layers) |> List.average
                        Expect.isLessThan (abs (0.2 * mean - 0.0889)) 2e-4 $"{layers} layers")

            testCase "S(t) from scratch has its value half way" (fun () ->
                let time = Schedule.exponential 101
                close "t = 0, 50, 100, 500" [ 0.0; 0.414214; 1.0; 1.0 ] (List.map time [ 0; 50; 100; 500 ]))

            testCase
                "every shape starts, passes the middle and ends where torchtune's of its name does"
                (fun () ->
                    for name, shape, middle in
                        [
                            "exp", Schedule.exponential 11, sqrt 2.0 - 1.0
                            "linear", Schedule.linear 11, 0.5
                        ] do
                        close name [ 0.0; middle; 1.0; 1.0 ] (List.map shape [ 0; 5; 10; 99 ]))

            testProperty "every shape stays within 0 and 1 and never falls"
            <| fun (PositiveInt count) (NonNegativeInt i) ->
                for shape in [ Schedule.exponential; Schedule.linear ] do
                    let here, next = shape count i, shape count (i + 1)
                    Expect.isTrue (0.0 <= here && here <= next && next <= 1.0) $"{here}, then {next}"

            testCase "schedules combine" (fun () ->
                Schedule.linear 5
                |> Schedule.scale 0.2
                |> Schedule.startingAt 2
                |> first 5
                |> close "scaled and started" [ 0.0; 0.0; 0.1; 0.15; 0.2 ]

                close "constant" [ 0.3; 0.3 ] (first 2 (Schedule.constant 0.3)))
        ]

        testList "shares of the loss" [
            testCase "e(l) has the paper's values, raw and normalised" (fun () ->
                let raw scale = ExitScale.paper scale (Array.create 4 true) |> List.ofArray
                close "raw, 0.1" [ 0.0; 0.1; 0.3; 3.3 ] (raw 0.1)
                close "raw, 0.2" [ 0.0; 0.2; 0.6; 3.6 ] (raw 0.2)
                close "raw, 1" [ 0.0; 1.0; 3.0; 6.0 ] (raw 1.0)
                let share scale = shares 4 Curriculum.all (ExitScale.paper scale) 0
                close "0.1" [ 0.0; 0.027027; 0.081081; 0.891892 ] (share 0.1)
                close "0.2" [ 0.0; 0.045455; 0.136364; 0.818182 ] (share 0.2)
                close "1" [ 0.0; 0.1; 0.3; 0.6 ] (share 1.0)

                shares 8 Curriculum.all (ExitScale.paper 0.2) 0
                |> close "L = 8" [ 0.0; 0.008929; 0.026786; 0.053571; 0.089286; 0.133929; 0.1875; 0.5 ])

            testCase "of 32 layers with 15 and the last on, the last has 0.837838" (fun () ->
                let found = shares 32 (Curriculum.grouped 1 [ 15 ]) (ExitScale.paper 0.2) 0
                close "the last" [ 0.837838 ] [ found[31] ]
                close "layer 15" [ 1.0 - 0.837838 ] [ found[15] ])

            testCase "e_scale 0 is the last layer's loss alone" (fun () ->
                Expect.equal
                    (shares 5 Curriculum.all (ExitScale.paper 0.0) 0)
                    [ 0.0; 0.0; 0.0; 0.0; 1.0 ]
                    "shares")

            testCase "one layer alone has weight 1" (fun () ->
                Expect.equal (shares 1 Curriculum.all (ExitScale.paper 0.2) 0) [ 1.0 ] "a model of one layer"

                let only = { Curriculum.grouped 1 [ 2 ] with LastAlways = false }
                Expect.equal (shares 4 only (ExitScale.paper 0.2) 0) [ 0.0; 0.0; 1.0; 0.0 ] "one layer on")

            testProperty "the shares of every step are 0 or more, and 1 together"
            <| fun (PositiveInt layers) (PositiveInt every) (NonNegativeInt step) (NormalFloat eScale) ->
                let layers = 1 + layers % 40

                for curriculum in
                    [
                        Curriculum.all
                        Curriculum.lastOnly
                        Curriculum.rotational every
                        Curriculum.gradual layers every
                    ] do
                    let found = shares layers curriculum (ExitScale.paper (abs eScale)) step
                    Expect.all found (fun share -> share >= 0.0) "0 or more"
                    Expect.isLessThan (abs (List.sum found - 1.0)) 1e-12 "1 together"
                    Expect.isGreaterThan (List.last found) 0.0 "the last layer learns"

            testCase "a loss without weight is an error when it is made" (fun () ->
                let noLast curriculum = { curriculum with LastAlways = false }
                let faults curriculum scale = ExitShares.tryCreate 4 (noLast curriculum) scale |> messages

                Expect.stringContains (faults Curriculum.lastOnly (ExitScale.paper 1.0)) "step 0" "no layer"
                // Layer 0 alone comes first, and e(0) = 0.
                Expect.stringContains
                    (faults (Curriculum.rotational 4) (ExitScale.paper 1.0))
                    "step 0"
                    "layer 0"

                let late = Curriculum.grouped 3 [ 2; 3; 0 ]
                Expect.stringContains (faults late (ExitScale.paper 0.2)) "step 2" "only at step 2"
                Expect.stringContains (faults Curriculum.all (ExitScale.paper -0.1)) "0 or more" "negative"
                Expect.stringContains
                    (faults Curriculum.all (ExitScale.paper nan))
                    "0 or more"
                    "not a number"
                Expect.stringContains
                    (faults (Curriculum.rotational 0) (ExitScale.paper 0.2))
                    "1 or more"
                    "R = 0"
                Expect.stringContains
                    (faults (Curriculum.grouped 0 [ 1 ]) (ExitScale.paper 0.2))
                    "1 or more"
                    "0 groups")
        ]

        testList "curricula" [
            testCase "rotation turns by one layer a step, and keeps the last on" (fun () ->
                Expect.equal
                    (Curriculum.rotational 3 |> sets 7 4)
                    [
                        [ 1; 0; 0; 1; 0; 0; 1 ]
                        [ 0; 1; 0; 0; 1; 0; 1 ]
                        [ 0; 0; 1; 0; 0; 1; 1 ]
                        [ 1; 0; 0; 1; 0; 0; 1 ]
                    ]
                    "R = 3")

            testProperty "in R steps of the paper's rotation every layer learns once"
            <| fun (PositiveInt layers) (PositiveInt every) (NonNegativeInt start) ->
                let rotation = { Curriculum.rotational every with LastAlways = false }

                for layer in 0..layers do
                    let times =
                        Seq.init every (fun i -> rotation.Enabled (start + i) layer)
                        |> Seq.filter id
                        |> Seq.length

                    Expect.equal times 1 $"layer {layer}"

            testCase "a rotation whose R divides L has torchtune's values" (fun () ->
                Expect.equal
                    (Curriculum.rotational 3 |> sets 3 4)
                    [ [ 1; 0; 1 ]; [ 0; 1; 1 ]; [ 0; 0; 1 ]; [ 1; 0; 1 ] ]
                    "from [1, 0, 0]")

            testCase
                "the paper's gradual curriculum has one layer more every T / 2L steps, and all before T / 2"
                (fun () ->
                    // L = 4, T = 80: layers 3, 2, 1, 0 from steps 0, 10, 20, 30.
                    let starts =
                        List.init 4 (fun layer ->
                            Seq.initInfinite id
                            |> Seq.find (fun step -> (Curriculum.gradual 4 80).Enabled step layer))

                    Expect.equal starts [ 30; 20; 10; 0 ] "first steps")

            testProperty "what a gradual curriculum turns on stays on"
            <| fun (PositiveInt layers) (PositiveInt steps) (NonNegativeInt step) ->
                let curriculum = Curriculum.gradual layers steps

                for layer in 0 .. layers - 1 do
                    if curriculum.Enabled step layer then
                        Expect.isTrue (curriculum.Enabled (step + 1) layer) $"layer {layer}"

                Expect.isTrue (curriculum.Enabled (steps + 2) 0) "all on at the end"

            testProperty "the cycle shows every set of layers"
            <| fun (PositiveInt layers) (PositiveInt every) (NonNegativeInt step) ->
                for curriculum in
                    [
                        Curriculum.rotational every
                        Curriculum.gradual layers every
                        Curriculum.grouped every [ 0 .. layers - 1 ]
                    ] do
                    let at = Curriculum.at layers curriculum
                    let known = Seq.init curriculum.Cycle at
                    Expect.isTrue (Seq.contains (at step) known) $"step {step} of {curriculum.Cycle}"
        ]

        testList "exit emphasis" [
            testCase "each exit has its own weight beside the last layer's 1" (fun () ->
                let shares = ExitShares.emphasis 6 1 [ 2, 0.5; 4, 0.25 ] |> Check.getOrRaise
                close
                    "shares"
                    [ 0.0; 0.5; 0.0; 0.25; 0.0; 1.0 ]
                    (shares 3 |> List.ofArray |> List.map (fun s -> s * 1.75)))

            testCase "groups take turns" (fun () ->
                let shares = ExitShares.emphasis 8 2 [ 2, 1.0; 3, 1.0; 5, 1.0 ] |> Check.getOrRaise
                let third = 1.0 / 3.0
                let exits step = shares step |> List.ofArray
                close "exits 2 and 5" [ 0.0; third; 0.0; 0.0; third; 0.0; 0.0; third ] (exits 0)
                close "exit 3" [ 0.0; 0.0; 0.5; 0.0; 0.0; 0.0; 0.0; 0.5 ] (exits 1)
                close "again" (exits 0) (exits 2))

            testCase "faults come all at once" (fun () ->
                let found = ExitShares.emphasis 4 1 [ 4, 1.0; 0, 1.0; 2, 1.0; 2, 1.0 ] |> messages
                Expect.stringContains found "for exit 4" "the last is no early exit"
                Expect.stringContains found "for exit 0" "nor is the embedding"
                Expect.stringContains found "twice for 2" "twice"
                Expect.stringContains
                    (ExitShares.emphasis 4 1 [ 2, -1.0 ] |> messages)
                    "0 or more"
                    "negative"
                Expect.stringContains
                    (ExitShares.emphasis 4 0 [ 2, 1.0 ] |> messages)
                    "1 to 1 groups"
                    "no group"
                Expect.stringContains
                    (ExitShares.emphasis 4 1 [ 2, 0.0 ] |> messages)
                    "without any weight"
                    "none")
        ]
    ]
