module LayerSkip.Tests.ScalarTests

open System
open System.Collections.Generic
open System.Threading
open Expecto
open Mono.Cecil
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private calls (method: MethodDefinition) : MethodReference seq =
    if method.HasBody then
        method.Body.Instructions
        |> Seq.choose (fun instruction ->
            match instruction.Operand with
            | :? MethodReference as called -> Some called
            | _ -> None)
    else
        Seq.empty

let rec private methodsOf (kind: TypeDefinition) : MethodDefinition seq =
    Seq.append kind.Methods (Seq.collect methodsOf kind.NestedTypes)

/// Whether a method of TorchSharp, or one that it calls there, makes a Scalar.
let private makesScalar =
    let known = Dictionary<string, bool>()

    let rec ask (reference: MethodReference) =
        match known.TryGetValue reference.FullName with
        | true, answer -> answer
        | _ ->
            // False while it is being looked at: methods may call each other.
            known[reference.FullName] <- false

            let makes =
                reference.DeclaringType.Namespace.StartsWith "TorchSharp"
                || not (isNull reference.DeclaringType.DeclaringType)

            let answer =
                makes
                && (reference.Name = "ToScalar"
                    || (reference.Name = "op_Implicit" && reference.ReturnType.Name = "Scalar")
                    || (match reference.Resolve() with
                        | null -> false
                        | method -> calls method |> Seq.filter isTorchSharp |> Seq.exists ask))

            known[reference.FullName] <- answer
            answer

    and isTorchSharp (reference: MethodReference) =
        match reference.DeclaringType.Scope with
        | :? AssemblyNameReference as assembly -> assembly.Name = "TorchSharp"
        | scope -> scope.Name.StartsWith "TorchSharp"

    fun reference -> isTorchSharp reference && ask reference

[<Tests>]
let tests =
    testSequenced
    <| testList "scalars" [
        testCase "the library calls nothing of TorchSharp that makes a Scalar and lets go of it" (fun () ->
            use resolver = new DefaultAssemblyResolver()
            let parameters = ReaderParameters(AssemblyResolver = resolver)

            let modules = [
                for known in [ typeof<Weights>; typeof<BenchmarkOptions> ] do
                    let path = known.Assembly.Location
                    resolver.AddSearchDirectory(IO.Path.GetDirectoryName path)
                    AssemblyDefinition.ReadAssembly(path, parameters).MainModule
            ]

            let owner (method: MethodDefinition) = method.DeclaringType.FullName.Replace('/', '.')

            let found = [
                for kind in Seq.collect (fun (made: ModuleDefinition) -> made.Types) modules do
                    for method in methodsOf kind do
                        if not ((owner method).StartsWith "LayerSkip.Scalars") then
                            for called in calls method do
                                if makesScalar called then
                                    $"{owner method}.{method.Name}: {called.Name}"
            ]

            Expect.equal (List.distinct found) [] "use Scalars instead"
            let plus = modules.Head.GetType "LayerSkip.Scalars" |> methodsOf |> Seq.collect calls
            Expect.exists plus makesScalar "the search itself finds what Scalars does")

        testCase "a collection on another thread frees no number that libtorch still reads" (fun () ->
            use ended = new ManualResetEventSlim()

            let collector =
                Thread(
                    (fun () ->
                        while not ended.IsSet do
                            GC.Collect 0
                            GC.WaitForPendingFinalizers()),
                    IsBackground = true
                )

            collector.Start()

            try
                use weights = Tiny.weights Dtype.F64 { Config = Tiny.config 24 2 2 1 true; Seed = 3L }

                let decode _ =
                    for _ in 1..60 do
                        Generation.complete weights None (options Strategy.Autoregressive 40) [| 1 |]
                        |> Check.getOrRaise
                        |> ignore

                Array.Parallel.iter decode [| 1; 2 |]
            finally
                ended.Set()
                collector.Join())
    ]
