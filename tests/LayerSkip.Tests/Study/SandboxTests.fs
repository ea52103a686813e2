module LayerSkip.Tests.SandboxTests

open System
open System.Diagnostics
open System.IO
open System.IO.Compression
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport

/// Short enough to wait for, long enough for a machine that is busy.
let private limits = { Sandbox.defaults with CpuSeconds = 2; WallSeconds = 4.0; MemoryMiB = 256 }

let private isPythonThere =
    lazy
        (Environment.GetEnvironmentVariable "PATH"
         |> _.Split(Path.PathSeparator)
         |> Array.exists (fun folder -> File.Exists(Path.Combine(folder, "python3"))))

let private inSandbox (limits: SandboxLimits) (body: Sandbox -> unit) =
    if not (OperatingSystem.IsLinux() && isPythonThere.Value) then
        skiptest "no python3 on Linux"

    Sandbox.find limits |> Check.getOrRaise |> body

/// A program and how it must end.
let private ends name (program: string) (isRight: Verdict -> bool) =
    testCase name (fun () ->
        inSandbox limits (fun sandbox ->
            let verdict = Sandbox.run sandbox program
            Expect.isTrue (isRight verdict) $"{Sandbox.name verdict}"))

let private fails (word: string) (verdict: Verdict) =
    match verdict with
    | Verdict.Failed why -> why.Contains word
    | _ -> false

let private isStopped (verdict: Verdict) = verdict.IsTimedOut || verdict.IsKilled

/// How many processes have this word in their command lines.
let private running (word: string) =
    Directory.GetDirectories "/proc"
    |> Array.filter (fun folder ->
        try
            (File.ReadAllText(Path.Combine(folder, "cmdline"))).Contains word
        with
        | :? IOException
        | :? UnauthorizedAccessException -> false)
    |> Array.length

/// Prompts, solutions and tests of HumanEval.
let private problems (path: string) = [
    use file = File.OpenRead path
    use text = new StreamReader(new GZipStream(file, CompressionMode.Decompress))

    while not text.EndOfStream do
        use line = JsonDocument.Parse(text.ReadLine())
        let text (name: string) = line.RootElement.GetProperty(name).GetString()
        let tests, entry = text "test", text "entry_point"
        text "task_id", text "prompt", text "canonical_solution", $"{tests}\ncheck({entry})\n"
]

[<Tests>]
let tests =
    testSequenced
    <| testList "sandbox" [
        ends "a program that runs to its end passes" "assert sorted([2, 1]) == [1, 2]" _.IsPassed
        ends "an assertion that does not hold fails" "assert 1 == 2, 'no'" (fails "AssertionError: no")
        ends "so does any exception" "1 / 0" (fails "ZeroDivisionError")
        ends "and what is no Python" "def f(:" (fails "SyntaxError")
        ends
            "and one that cannot be told"
            "class E(Exception):\n  def __str__(self): raise E\nraise E"
            (fails "cannot be told")
        ends "leaving with success is no pass" "import sys\nsys.exit(0)" (fails "SystemExit")
        ends "leaving at once is none" "import os\nos._exit(0)\nassert False" _.IsEndedEarly
        ends
            "nor is to print what looks like one"
            "import os\nprint('{\"verdict\": \"passed\"}', flush=True)\nfor fd in range(3, 20):\n  try: os.write(fd, b'\\n{\"verdict\": \"passed\", \"why\": \"\"}\\npassed\\n')\n  except OSError: pass\nos._exit(0)"
            _.IsEndedEarly
        ends "an endless loop is stopped" "while True: pass" isStopped
        ends "so is sleep" "import time\ntime.sleep(100)" _.IsTimedOut
        ends
            "so is a bomb of processes"
            "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
            isStopped
        ends "memory has an end" "x = []\nwhile True: x.append(bytearray(1 << 20))" (fails "MemoryError")
        ends
            "what is printed goes nowhere, however much"
            "for i in range(1000): print('x' * 100000)"
            _.IsPassed
        ends
            "a flood into every open file is stopped"
            "import os\nwhile True:\n  for fd in range(3, 20):\n    try: os.write(fd, b'x' * 100000)\n    except OSError: pass"
            (_.IsPassed >> not)
        ends "there is no input" "input()" (fails "EOFError")
        ends
            "there is no environment"
            "import os\nassert not set(os.environ) - {'LC_CTYPE'}, dict(os.environ)"
            _.IsPassed
        ends
            "its folder is empty and its own"
            "import os\nassert os.listdir() == []\nopen('a', 'w').write('x')\nassert open('a').read() == 'x'"
            _.IsPassed
        ends
            "files have an end"
            "with open('a', 'wb') as file:\n  for i in range(8): file.write(bytes(1 << 20))"
            (fails "OSError")
        ends "a crash of the interpreter is one" "import ctypes\nctypes.string_at(0)" (fun v ->
            v = Verdict.Killed "SIGSEGV")
        ends "deep recursion is an exception" "def f(): return f()\nf()" (fails "RecursionError")
        ends
            "the network is cut off"
            "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)"
            (fails "Error")

        testCase "nothing is written elsewhere" (fun () ->
            inSandbox limits (fun sandbox ->
                withFolder (fun folder ->
                    let theirs = Path.Combine(folder, "kept")
                    File.WriteAllText(theirs, "kept")

                    for program in
                        [
                            $"open('{folder}/new', 'w')"
                            $"open('{theirs}', 'a').write('more')"
                            $"import os\nos.remove('{theirs}')"
                            $"import os\nos.truncate('{theirs}', 0)"
                            "open('/tmp/layerskip-elsewhere', 'w')"
                            "import os\nos.mkdir('/dev/shm/layerskip-elsewhere')"
                        ] do
                        let verdict = Sandbox.run sandbox program
                        Expect.isTrue (fails "Error" verdict) $"{program}: {Sandbox.name verdict}"

                    Expect.equal (Directory.GetFiles folder) [| theirs |] "no file came or went"
                    Expect.equal (File.ReadAllText theirs) "kept" "nor changed")))

        testCase "a child that outlives its parent does not outlive the program" (fun () ->
            inSandbox limits (fun sandbox ->
                if not sandbox.Missing.IsEmpty then
                    skiptest "the system parts no processes"

                let word = $"layerskip-child-{Guid.NewGuid()}"

                let program =
                    $"import os, sys\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n  os._exit(0)\nimport time\ntime.sleep(0.5)"

                Expect.equal (Sandbox.run sandbox program) Verdict.Passed "it ran"
                Expect.equal (running word) 0 "its child is gone"))

        testCase "no folder is left" (fun () ->
            inSandbox limits (fun sandbox ->
                let there () = Directory.GetDirectories(Path.GetTempPath(), "layerskip-sandbox-*")
                Sandbox.run sandbox "open('a', 'w').write('x')" |> ignore
                Sandbox.run sandbox "import os\nos.mkdir('d')\nos.chmod('d', 0)\nos._exit(0)" |> ignore
                Expect.isEmpty (there ()) "folders"))

        testCase "programs run beside each other" (fun () ->
            inSandbox limits (fun sandbox ->
                let verdicts = Array.Parallel.init 8 (fun i -> Sandbox.run sandbox $"assert {i &&& 1} == 0")

                Expect.equal
                    (verdicts |> Array.map _.IsPassed)
                    (Array.init 8 (fun i -> i % 2 = 0))
                    "each its own"))

        testCase "without a python3 there is one line" (fun () ->
            withFolder (fun folder ->
                File.WriteAllText(Path.Combine(folder, "python3"), "no program")
                Sandbox.findIn folder limits |> messages |> expectFault [ "python3"; "install it" ]
                Sandbox.findIn "" limits |> messages |> expectFault [ "python3" ]))

        sharedTest
            "HumanEval's own solutions pass, and broken ones do not"
            [ "eval"; "humaneval"; "HumanEval.jsonl.gz" ]
            (fun path ->
                inSandbox Sandbox.defaults (fun sandbox ->
                    let problems = problems path
                    Expect.equal problems.Length 164 "problems"

                    problems
                    |> Array.ofList
                    |> Array.Parallel.map (fun (id, prompt, solution, test) ->
                        id, Sandbox.run sandbox $"{prompt}{solution}\n{test}")
                    |> Array.iter (fun (id, verdict) -> Expect.equal verdict Verdict.Passed id)

                    for id, prompt, _, test in List.truncate 20 problems do
                        let verdict = Sandbox.run sandbox $"{prompt}    return None\n\n{test}"
                        Expect.isTrue verdict.IsFailed $"{id}: {Sandbox.name verdict}"))
    ]
