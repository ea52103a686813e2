module LayerSkip.Tests.BackendTests

open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

[<Tests>]
let versions =
    testList "backend: versions" [
        testCase "are compared as numbers, and only those that fit are taken" (fun () ->
            let found = [
                "2.10.0"
                "2.9.1"
                "2.10.2"
                "2.10.10"
                "2.10.2-rc1"
                "2.1.0"
                "notes"
                "3.0.0"
            ]

            Expect.equal
                (Backend.fitting "2.10" found)
                [ "2.10.10"; "2.10.2"; "2.10.2-rc1"; "2.10.0" ]
                "newest first"

            Expect.equal (Backend.fitting "2.9" found) [ "2.9.1" ] "the one"
            Expect.equal (Backend.fitting "2.11" found) [] "none")

        testCase "the libtorch asked for is the one that the project is locked to" (fun () ->
            let locked = File.ReadAllText(Path.Combine(Support.root, "paket.lock"))
            Expect.stringContains locked $"libtorch-cpu-linux-x64 ({Backend.torchVersion}" "in paket.lock")
    ]

let private info = "info --model \"$MODEL\""

/// A script around a tiny model, with a home of its own; `layerskip` is the program.
let private athome (script: string) (check: string -> Outcome -> unit) =
    withModel (fun model ->
        withFolder (fun folder ->
            let home = Path.Combine(folder, "home")
            Directory.CreateDirectory(Path.Combine(home, ".local", "share")) |> ignore
            let outcome = shell folder $"unset XDG_DATA_HOME; export HOME={home} MODEL={model}\n{script}"
            check (Path.Combine(home, ".local", "share", "layerskip")) outcome))

let private isPatched =
    lazy
        (match Backend.load () with
         | Ok backend -> backend.Patched
         | Error _ -> false)

let private patchedCase name body =
    testCase name (fun () ->
        if not isPatched.Value then
            skiptest "this system's C++ run-time needs no patched library"

        body ())

[<Tests>]
let processes =
    testSequenced
    <| testList "backend: the patched library" [
        patchedCase "a damaged, foreign or linked copy is never loaded, and is put right" (fun () ->
            for damage in
                [
                    "truncate -s 4096 $copy"
                    "head -c 9999999 /dev/urandom >$copy"
                    "chmod 666 $copy; truncate -s 100 $copy"
                    "cp $copy other; truncate -s 4096 other; ln -sf $PWD/other $copy"
                    "chmod 666 $copy"
                ] do
                athome
                    $"(layerskip {info}) >first && copy=$(echo $HOME/.local/share/layerskip/*.so) && cp $copy good && {damage}
                      (layerskip {info}) >second && cmp first second && cmp good $copy && stat -c %%a:%%F $copy"
                    (fun cache outcome ->
                        Expect.equal outcome.Code 0 $"{damage}: {outcome.Error}"
                        Expect.equal outcome.Out "700:regular file\n" damage
                        Expect.equal (Directory.GetFiles cache).Length 1 "one file"))

        patchedCase
            "a copy of another user's is never loaded, though it is the same, and is put right"
            (fun () ->
                athome
                    $"test $(id -u) = 0 || exit 77
                  (layerskip {info}) >first && copy=$(echo $HOME/.local/share/layerskip/*.so) && cp $copy good && chown 65534 $copy
                  (layerskip {info}) >second && cmp first second && cmp good $copy && stat -c %%u:%%a $copy"
                    (fun _ outcome ->
                        if outcome.Code = 77 then
                            skiptest "only root can give a file away"

                        Expect.equal outcome.Code 0 outcome.Error
                        Expect.equal outcome.Out "0:700\n" "ours again"))

        patchedCase
            "where no copy can be kept, none is needed, and nothing stays in the temporary folder"
            (fun () ->
                for home in [ "/nonexistent"; "/proc"; "''" ] do
                    athome
                        $"mkdir tmp; export TMPDIR=$PWD/tmp HOME={home}; (layerskip {info}) >made && ls tmp"
                        (fun _ outcome ->
                            Expect.equal outcome.Code 0 $"{home}: {outcome.Error}"
                            Expect.equal outcome.Out "" "nothing stays"))

        testCase "a home that cannot be written, and no temporary folder, do no harm" (fun () ->
            athome
                $"chmod 555 $HOME/.local/share; export TMPDIR=/nonexistent
                  (layerskip generate --model \"$MODEL\" --prompt-ids 3 --max-new-tokens 3)"
                (fun _ outcome -> Expect.equal outcome.Code 0 outcome.Error))

        testCase
            "a current folder that has been deleted is said in one line, whatever is to be done"
            (fun () ->
                athome
                    $"mkdir gone; cd gone; rmdir ../gone
                  (layerskip {info}); test $? = 2 || exit 9; (layerskip info --model here); test $? = 2 || exit 9
                  (layerskip generate --model \"$MODEL\" --prompt-ids 3 --output made); test $? = 2"
                    (fun _ outcome ->
                        Expect.equal outcome.Code 0 outcome.Error
                        let lines = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip:")
                        Expect.equal lines.Length 3 outcome.Error

                        for line in lines do
                            Expect.stringContains line "the current folder has been deleted" "why"))
    ]
